from typing import Any

import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2

from model.deployment.triton_config import Backend, TensorSpec, TritonOptions, triton_config
from tests.detector_graph import detector_graph

# Made at run time, without stubs.
schema: Any = model_config_pb2

INPUTS = (TensorSpec("images", "uint8", (640, 640, 3)),)
OUTPUTS = (
    TensorSpec("boxes", "float32", (300, 4)),
    TensorSpec("scores", "float32", (300,)),
    TensorSpec("labels", "int32", (300,)),
)
CPU_BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino")
BACKENDS: tuple[Backend, ...] = ("tensorrt", *CPU_BACKENDS)

# Each of these turns the batcher's prefetching off, or makes it wait for a size.
STALLING_KNOBS = {
    "preferred_batch_size",
    "preserve_ordering",
    "priority_levels",
    "default_priority_level",
    "default_queue_policy",
    "priority_queue_policy",
}

VARIANTS = [
    (backend, batch, options)
    for backend in BACKENDS
    for batch in (1, 2, 6, 16)
    for options in (
        TritonOptions(),
        TritonOptions(num_instances=3, max_queue_delay_us=1500, gpus=(0, 1), cuda_graphs=False),
        TritonOptions(num_threads=2, openvino_accelerator=backend == "onnxruntime"),
    )
]


def parsed(text: str) -> Any:
    """The config as the client library's schema reads it; an unknown field is an error."""
    return text_format.Parse(text, schema.ModelConfig())


def config(backend: Backend = "tensorrt", max_batch_size: int = 16, **changes: Any) -> Any:
    arguments = {"name": "rtmdet-s", "inputs": INPUTS, "outputs": OUTPUTS, **changes}
    return parsed(triton_config(max_batch_size=max_batch_size, backend=backend, **arguments))


@pytest.mark.parametrize(("backend", "max_batch_size", "options"), VARIANTS)
def test_config__every_variant_describes_the_model(
    backend: Backend, max_batch_size: int, options: TritonOptions
) -> None:
    message = config(backend, max_batch_size, options=options)
    assert (message.name, message.backend) == ("rtmdet-s", backend)
    assert message.max_batch_size == max_batch_size
    assert [(t.name, t.data_type, list(t.dims)) for t in message.input] == [
        ("images", schema.TYPE_UINT8, [640, 640, 3])
    ]
    assert [(t.name, t.data_type, list(t.dims)) for t in message.output] == [
        ("boxes", schema.TYPE_FP32, [300, 4]),
        ("scores", schema.TYPE_FP32, [300]),
        ("labels", schema.TYPE_INT32, [300]),
    ]
    assert message.version_policy.latest.num_versions == 1


@pytest.mark.parametrize(("backend", "max_batch_size", "options"), VARIANTS)
def test_config__no_variant_has_a_knob_that_stalls(
    backend: Backend, max_batch_size: int, options: TritonOptions
) -> None:
    text = triton_config("m", max_batch_size, INPUTS, OUTPUTS, backend, options=options)
    set_fields = {field.name for field, _ in parsed(text).dynamic_batching.ListFields()}
    assert set_fields <= {"max_queue_delay_microseconds"}
    assert parsed(text).HasField("dynamic_batching")
    for word in (*STALLING_KNOBS, "max_queue_size", "timeout", "priority", "rate_limiter"):
        assert word not in text


def test_config__stalling_knobs_are_fields_of_the_schema() -> None:
    # A knob that the schema calls otherwise would make the test above pass whatever is written.
    assert set(schema.ModelDynamicBatching.DESCRIPTOR.fields_by_name) == (
        STALLING_KNOBS | {"max_queue_delay_microseconds"}
    )


@pytest.mark.parametrize(
    ("backend", "delay_us"), [("tensorrt", 500), ("onnxruntime", 0), ("openvino", 0)]
)
def test_config__queue_delay_by_default(backend: Backend, delay_us: int) -> None:
    assert config(backend).dynamic_batching.max_queue_delay_microseconds == delay_us


def test_config__queue_delay_given() -> None:
    message = config("onnxruntime", options=TritonOptions(max_queue_delay_us=250))
    assert message.dynamic_batching.max_queue_delay_microseconds == 250


@pytest.mark.parametrize(
    ("backend", "filename"),
    [("tensorrt", "model.plan"), ("onnxruntime", "model.onnx"), ("openvino", "model.onnx")],
)
def test_config__file_by_default(backend: Backend, filename: str) -> None:
    assert config(backend).default_model_filename == filename


def test_config__file_given() -> None:
    message = config("tensorrt", default_model_filename="model.sm90.plan")
    assert message.default_model_filename == "model.sm90.plan"


def test_config__gpu_instances() -> None:
    (group,) = config(options=TritonOptions(gpus=(0, 2))).instance_group
    assert group.kind == schema.ModelInstanceGroup.KIND_GPU
    assert (group.count, list(group.gpus)) == (2, [0, 2])


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_config__cpu_instances(backend: Backend) -> None:
    (group,) = config(backend).instance_group
    assert group.kind == schema.ModelInstanceGroup.KIND_CPU
    assert (group.count, list(group.gpus)) == (1, [])


def test_config__num_instances_given() -> None:
    (group,) = config(options=TritonOptions(num_instances=3)).instance_group
    assert group.count == 3


@pytest.mark.parametrize(
    ("max_batch_size", "expected"),
    [
        (1, [(1, None)]),
        (2, [(1, None), (2, None)]),
        (6, [(1, None), (2, None), (4, 3), (6, 5)]),
        (16, [(1, None), (2, None), (4, 3), (8, 5), (16, 9)]),
    ],
)
def test_config__cuda_graphs_cover_every_batch_size(
    max_batch_size: int, expected: list[tuple[int, int | None]]
) -> None:
    cuda = config(max_batch_size=max_batch_size).optimization.cuda
    assert cuda.graphs
    bounds = [
        (
            spec.batch_size,
            spec.graph_lower_bound.batch_size if spec.HasField("graph_lower_bound") else None,
        )
        for spec in cuda.graph_spec
    ]
    assert bounds == expected
    covered = [n for size, low in bounds for n in range(low or size, size + 1)]
    assert covered == list(range(1, max_batch_size + 1))


def test_config__gpu_optimization() -> None:
    optimization = config().optimization
    assert optimization.cuda.busy_wait_events
    assert optimization.cuda.output_copy_stream
    assert optimization.input_pinned_memory.enable
    assert optimization.output_pinned_memory.enable
    assert optimization.eager_batching


def test_config__without_cuda_graphs() -> None:
    cuda = config(options=TritonOptions(cuda_graphs=False)).optimization.cuda
    assert not cuda.graphs
    assert len(cuda.graph_spec) == 0


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_config__cpu_has_no_gpu_optimization(backend: Backend) -> None:
    assert not config(backend).HasField("optimization")


def test_config__onnxruntime_threads() -> None:
    parameters = config("onnxruntime", options=TritonOptions(num_threads=8)).parameters
    assert {key: value.string_value for key, value in parameters.items()} == {
        "intra_op_thread_count": "8"
    }


def test_config__onnxruntime_with_the_openvino_accelerator() -> None:
    message = config("onnxruntime", options=TritonOptions(openvino_accelerator=True))
    (accelerator,) = message.optimization.execution_accelerators.cpu_execution_accelerator
    assert accelerator.name == "openvino"


def test_config__openvino_parameters() -> None:
    parameters = config("openvino", options=TritonOptions(num_threads=8)).parameters
    assert {key: value.string_value for key, value in parameters.items()} == {
        "INFERENCE_NUM_THREADS": "8",
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("max_batch_size", "sizes"), [(1, [1]), (16, [1, 16])])
def test_config__warms_up_on_zeros(backend: Backend, max_batch_size: int, sizes: list[int]) -> None:
    warmups = config(backend, max_batch_size).model_warmup
    assert [warmup.batch_size for warmup in warmups] == sizes
    assert len({warmup.name for warmup in warmups}) == len(sizes)
    for warmup in warmups:
        images = warmup.inputs["images"]
        assert images.zero_data
        assert images.data_type == schema.TYPE_UINT8
        assert list(images.dims) == [640, 640, 3]


@pytest.mark.parametrize(
    "name", ['quote"backslash\\', "new\nline", "tab\tnul\0", "/head/été 图", "}] name: x", "007"]
)
def test_config__tensor_names_are_escaped(name: str) -> None:
    tensor = TensorSpec(name, "uint8", (4, 4, 3))
    message = config(inputs=(tensor,))
    assert message.input[0].name == name
    assert list(message.model_warmup[0].inputs) == [name]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("bool", schema.TYPE_BOOL),
        ("uint8", schema.TYPE_UINT8),
        ("int32", schema.TYPE_INT32),
        ("int64", schema.TYPE_INT64),
        ("float16", schema.TYPE_FP16),
        ("float32", schema.TYPE_FP32),
    ],
)
def test_config__data_types(dtype: str, expected: int) -> None:
    assert config(outputs=(TensorSpec("y", dtype, (1,)),)).output[0].data_type == expected


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "../a", "a..b", ".hidden", "é", 'a"b', "a\n", "a" * 129]
)
def test_config__odd_model_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no (model|plain) name"):
        config(name=name)


@pytest.mark.parametrize("filename", ["../model.plan", "a/model.plan", "a\\b", "model\n.plan"])
def test_config__odd_file_names_are_refused(filename: str) -> None:
    with pytest.raises(ValueError, match="is no plain name"):
        config(default_model_filename=filename)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be 1 or more"),
        ({"inputs": ()}, "needs inputs and outputs"),
        ({"outputs": ()}, "needs inputs and outputs"),
        ({"outputs": (*OUTPUTS, *INPUTS)}, "two tensors named 'images'"),
        ({"options": TritonOptions(num_instances=0)}, "num_instances must be 1 or more"),
        ({"options": TritonOptions(max_queue_delay_us=-1)}, "must not be negative"),
        ({"options": TritonOptions(num_threads=0)}, "num_threads must be 1 or more"),
        ({"options": TritonOptions(gpus=())}, "gpus must be device numbers"),
        ({"options": TritonOptions(gpus=(-1,))}, "gpus must be device numbers"),
        ({"options": TritonOptions(openvino_accelerator=True)}, "is for onnxruntime"),
    ],
)
def test_config__values_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("name", "dtype", "dims", "message"),
    [
        ("", "uint8", (1,), "needs a name"),
        ("x", "complex64", (1,), "no Triton type for 'complex64'"),
        ("x", "uint8", (), "must be sizes of 1 or more"),
        ("x", "uint8", (-1, 3), "must be sizes of 1 or more"),
    ],
)
def test_tensor__values_that_cannot_be_are_refused(
    name: str, dtype: str, dims: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TensorSpec(name, dtype, dims)


def test_tensor__of_the_values_of_a_graph() -> None:
    graph = detector_graph().graph
    assert [TensorSpec.of(value) for value in (*graph.input, *graph.output)] == [
        TensorSpec("images", "uint8", (32, 32, 3)),
        TensorSpec("boxes", "float32", (20, 4)),
        TensorSpec("scores", "float32", (20,)),
        TensorSpec("labels", "int32", (20,)),
        TensorSpec("masks", "float32", (4, 16, 16)),
    ]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.BOOL, "bool"),
        (TensorProto.INT64, "int64"),
        (TensorProto.FLOAT16, "float16"),
    ],
)
def test_tensor__of_each_element_type(kind: int, dtype: str) -> None:
    value = helper.make_tensor_value_info("y", kind, ["N", 2])
    assert TensorSpec.of(value) == TensorSpec("y", dtype, (2,))


def test_tensor__of_a_value_whose_size_varies_is_refused() -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "boxes"])
    with pytest.raises(ValueError, match="must be sizes of 1 or more"):
        TensorSpec.of(value)


def test_tensor__of_a_type_that_triton_lacks_is_refused() -> None:
    value = helper.make_tensor_value_info("y", TensorProto.COMPLEX64, ["N", 2])
    with pytest.raises(ValueError, match="no Triton type for 'onnx 14'"):
        TensorSpec.of(value)
