"""Writes a Triton model's `config.pbtxt`, as text, for GPUs and for CPUs.

`dynamic_batching` gets a queue delay and nothing else: priorities, queue limits, timeouts and
preferred sizes turn the batcher's prefetching off, and then requests stall for 500 ms at a time.
Admission, priorities and deadlines belong to the gateway. Protobuf is not needed here; the tests
parse every variant with the client library's schema.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from model.manifest import GRAPH_FILE, valid_model_name

if TYPE_CHECKING:
    from onnx import ValueInfoProto

Backend = Literal["tensorrt", "onnxruntime", "openvino"]

#: The file of a TensorRT engine in a model's version folder.
PLAN_FILE = "model.plan"

_MODEL_FILES: dict[Backend, str] = {
    "tensorrt": PLAN_FILE,
    "onnxruntime": GRAPH_FILE,
    "openvino": GRAPH_FILE,
}

_DATA_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
}
# By the numbers of ONNX's `TensorProto.DataType`, so that a server without onnx can import this.
_ONNX_DTYPES = {1: "float32", 2: "uint8", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its name in the graph, numpy's name of its type, its shape.

    `dims` leaves the batch axis out. Raises `ValueError` for what Triton would refuse.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a tensor of a Triton model needs a name")
        if self.dtype not in _DATA_TYPES:
            raise ValueError(
                f"tensor {self.name!r}: no Triton type for {self.dtype!r}; there are: "
                f"{', '.join(_DATA_TYPES)}"
            )
        if not self.dims or any(size < 1 for size in self.dims):
            raise ValueError(
                f"tensor {self.name!r}: dims {self.dims} must be sizes of 1 or more, "
                "without the batch axis"
            )

    @classmethod
    def of(cls, value: "ValueInfoProto") -> "TensorSpec":
        """What an input or output of an ONNX graph is to Triton; its first axis is the batch."""
        kind = value.type.tensor_type
        dims = tuple(dim.dim_value for dim in kind.shape.dim[1:])
        return cls(value.name, _ONNX_DTYPES.get(kind.elem_type, f"onnx {kind.elem_type}"), dims)


@dataclass(frozen=True)
class TritonOptions:
    """How a model runs. `None` leaves the choice to the backend's default.

    `num_instances` copies run side by side (2 on a GPU: one copies while the other computes; 1 on
    CPUs). `max_queue_delay_us` is how long, in microseconds, the first request of a batch waits
    for others (500 on a GPU, 0 on CPUs). `gpus` are device numbers; `cuda_graphs` replays the
    engine as recorded graphs. `num_threads` and `openvino_accelerator` (only for onnxruntime)
    matter on CPUs.
    """

    num_instances: int | None = None
    max_queue_delay_us: int | None = None
    gpus: tuple[int, ...] = (0,)
    cuda_graphs: bool = True
    num_threads: int = 4
    openvino_accelerator: bool = False


def triton_config(
    name: str,
    max_batch_size: int,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    backend: Backend,
    default_model_filename: str | None = None,
    options: TritonOptions = TritonOptions(),
) -> str:
    """The text of `config.pbtxt` for the model `name`, to stand in the folder of that name.

    `tensorrt` runs on GPUs, `onnxruntime` and `openvino` on CPUs. `default_model_filename` is
    `model.plan` or `model.onnx` unless given.

    Raises `ValueError` for names that are no plain names, batches below 1, missing tensors,
    tensors of one name, and options that cannot be.
    """
    filename = default_model_filename or _MODEL_FILES[backend]
    _refuse_unfit(name, filename, max_batch_size, (*inputs, *outputs))
    _refuse_unfit_options(options, backend)
    if not inputs or not outputs:
        raise ValueError(f"model {name!r} needs inputs and outputs")
    on_gpu = backend == "tensorrt"
    delay_us = options.max_queue_delay_us
    if delay_us is None:
        delay_us = 500 if on_gpu else 0
    fields: _Message = [
        ("name", name),
        ("backend", backend),
        ("default_model_filename", filename),
        ("max_batch_size", max_batch_size),
        *[("input", _tensor(tensor)) for tensor in inputs],
        *[("output", _tensor(tensor)) for tensor in outputs],
        ("instance_group", _instance_group(options, on_gpu=on_gpu)),
        ("dynamic_batching", [("max_queue_delay_microseconds", delay_us)]),
        *(_gpu_fields(max_batch_size, options) if on_gpu else _cpu_fields(backend, options)),
        *[("model_warmup", _warmup(size, inputs)) for size in sorted({1, max_batch_size})],
        ("version_policy", [("latest", [("num_versions", 1)])]),
    ]
    return "\n".join(_lines(fields)) + "\n"


def _refuse_unfit(
    name: str, filename: str, max_batch_size: int, tensors: Sequence[TensorSpec]
) -> None:
    valid_model_name(name)
    for text in (name, filename):
        # Triton refuses names that could lead out of the model's folder.
        if ".." in text or "/" in text or "\\" in text or not text.isprintable() or not text:
            raise ValueError(f"{text!r} is no plain name of a model or file")
    if max_batch_size < 1:
        raise ValueError(f"max_batch_size must be 1 or more, not {max_batch_size}")
    names = [tensor.name for tensor in tensors]
    for twice in {tensor_name for tensor_name in names if names.count(tensor_name) > 1}:
        raise ValueError(f"model {name!r} has two tensors named {twice!r}")


def _refuse_unfit_options(options: TritonOptions, backend: Backend) -> None:
    if options.num_instances is not None and options.num_instances < 1:
        raise ValueError(f"num_instances must be 1 or more, not {options.num_instances}")
    if options.max_queue_delay_us is not None and options.max_queue_delay_us < 0:
        raise ValueError(f"max_queue_delay_us must not be negative: {options.max_queue_delay_us}")
    if options.num_threads < 1:
        raise ValueError(f"num_threads must be 1 or more, not {options.num_threads}")
    if not options.gpus or any(number < 0 for number in options.gpus):
        raise ValueError(f"gpus must be device numbers from 0, at least one, not {options.gpus}")
    if options.openvino_accelerator and backend != "onnxruntime":
        raise ValueError(f"openvino_accelerator is for onnxruntime, not for {backend}")


class _Token(str):
    """A name of the text format that stands without quotes: an enum's value."""


# A message is a list of fields; a tuple of numbers is a repeated field on one line.
_Value = str | int | tuple[int, ...] | list[tuple[str, "_Value"]]
_Message = list[tuple[str, _Value]]


def _tensor(tensor: TensorSpec) -> _Message:
    return [("name", tensor.name), *_type_and_dims(tensor)]


def _type_and_dims(tensor: TensorSpec) -> _Message:
    return [("data_type", _Token(_DATA_TYPES[tensor.dtype])), ("dims", tensor.dims)]


def _instance_group(options: TritonOptions, *, on_gpu: bool) -> _Message:
    if not on_gpu:
        return [("count", options.num_instances or 1), ("kind", _Token("KIND_CPU"))]
    return [
        ("count", options.num_instances or 2),
        ("kind", _Token("KIND_GPU")),
        ("gpus", options.gpus),
    ]


def _gpu_fields(max_batch_size: int, options: TritonOptions) -> _Message:
    cuda: _Message = [
        ("graphs", options.cuda_graphs),
        ("busy_wait_events", True),
        ("output_copy_stream", True),
    ]
    if options.cuda_graphs:
        cuda += [("graph_spec", spec) for spec in _graph_specs(max_batch_size)]
    pinned: _Message = [("enable", True)]
    optimization: _Message = [
        ("cuda", cuda),
        ("input_pinned_memory", pinned),
        ("output_pinned_memory", pinned),
        ("eager_batching", True),
    ]
    return [("optimization", optimization)]


def _graph_specs(max_batch_size: int) -> Iterator[_Message]:
    """Graphs for 1, 2, 4 ... and the largest batch; each serves the sizes below it as well.

    Without them Triton records batches of 1 and of the largest size alone.
    """
    smaller, size = 0, 1
    while smaller < max_batch_size:
        size = min(size, max_batch_size)
        spec: _Message = [("batch_size", size)]
        if smaller + 1 < size:
            spec.append(("graph_lower_bound", [("batch_size", smaller + 1)]))
        yield spec
        smaller, size = size, size * 2


def _cpu_fields(backend: Backend, options: TritonOptions) -> _Message:
    threads = str(options.num_threads)
    if backend == "openvino":
        return [
            _parameter("INFERENCE_NUM_THREADS", threads),
            _parameter("NUM_STREAMS", "1"),
            _parameter("PERFORMANCE_HINT", "LATENCY"),
        ]
    fields: _Message = [_parameter("intra_op_thread_count", threads)]
    if options.openvino_accelerator:
        accelerator: _Message = [("cpu_execution_accelerator", [("name", "openvino")])]
        fields.append(("optimization", [("execution_accelerators", accelerator)]))
    return fields


def _parameter(key: str, value: str) -> tuple[str, _Value]:
    return ("parameters", [("key", key), ("value", [("string_value", value)])])


def _warmup(batch_size: int, inputs: Sequence[TensorSpec]) -> _Message:
    """One inference on zeros before the model counts as ready."""
    entries: _Message = []
    for tensor in inputs:
        value: _Message = [*_type_and_dims(tensor), ("zero_data", True)]
        entries.append(("inputs", [("key", tensor.name), ("value", value)]))
    return [("name", f"batch_{batch_size}"), ("batch_size", batch_size), *entries]


def _lines(message: _Message, indent: str = "") -> Iterator[str]:
    for name, value in message:
        match value:
            case list():
                yield f"{indent}{name} {{"
                yield from _lines(value, indent + "  ")
                yield f"{indent}}}"
            case tuple():
                yield f"{indent}{name}: [{', '.join(map(str, value))}]"
            case _Token():
                yield f"{indent}{name}: {value}"
            case str():
                yield f"{indent}{name}: {_quoted(value)}"
            case bool():
                yield f"{indent}{name}: {str(value).lower()}"
            case _:
                yield f"{indent}{name}: {value}"


def _quoted(text: str) -> str:
    """A string literal of the protobuf text format: bytes beyond printable ASCII in octal."""
    literal = ""
    for byte in text.encode():
        character = chr(byte)
        if character in '"\\':
            literal += "\\" + character
        elif 32 <= byte < 127:
            literal += character
        else:
            literal += f"\\{byte:03o}"
    return f'"{literal}"'
