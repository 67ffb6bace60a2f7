"""Whether TensorRT will take a graph, asked where there is no GPU.

`model.deployment.tensorrt_operators` has what the parser takes. Limits of single operators are
checked for those that detectors export to; of others only name and element type. uint8 has a rule
of its own: only a Cast may read or make it, and only at the boundary of the graph
(NVIDIA/TensorRT#3985).

Stricter than the parser, because engines here run as CUDA graphs with one varying axis: no shape
may depend on data, no subgraphs, no axis but the batch may vary, and nothing may be float64.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from model.deployment.onnx_graph import (
    STANDARD_DOMAINS,
    constants,
    data_ports,
    element_types,
    label,
    standard_opset,
    tensor_infos,
)
from model.deployment.tensorrt_operators import (
    CONSTANT_INPUTS,
    DATA_DEPENDENT,
    MAX_RANK,
    MAX_TOPK,
    OPERATORS,
    OPSETS,
    RESIZE_CHOICES,
    SHAPE_INPUTS,
    TOPK_AXES,
    TYPED_BY_OUTPUT,
)


class UnsupportedByTensorRT(ValueError):
    """TensorRT would refuse the graph, or could not run it as a CUDA graph."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "TensorRT cannot take this graph:\n" + "\n".join(f"- {p}" for p in problems)
        )


def require_tensorrt_support(model: ModelProto) -> None:
    """Raise `UnsupportedByTensorRT` with every problem that `check_tensorrt_support` finds."""
    problems = check_tensorrt_support(model)
    if problems:
        raise UnsupportedByTensorRT(problems)


def check_tensorrt_support(model: ModelProto) -> list[str]:
    """What in `model` TensorRT 10.12 to 11.x would stumble over; empty means nothing is known.

    Each problem is one sentence that names the node and the tensor.
    """
    problems = list(_model_problems(model))
    try:
        typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        return [*problems, f"ONNX cannot infer the graph's types and shapes: {error}"]
    facts = _Facts.of(typed)
    problems += _boundary_problems(model.graph)
    problems += _tensor_problems(model.graph, facts)
    for node in model.graph.node:
        # Inference may have stopped at a node that has a problem, so that comes first.
        found = list(_node_problems(node, facts)) or list(_unknown_types(node, facts))
        problems += [f"{label(node)}: {problem}" for problem in found]
    return problems


@dataclass(frozen=True)
class _Facts:
    """What is known of a graph's tensors, by name, once types and shapes are inferred."""

    opset: int
    types: Mapping[str, int]
    shapes: Mapping[str, tuple[int | None, ...]]
    constants: Mapping[str, TensorProto]
    #: Tensors whose values depend on the values, not only on the shapes, of the graph's inputs.
    from_data: frozenset[str]

    @classmethod
    def of(cls, typed: ModelProto) -> "_Facts":
        shapes = {
            name: _shape(info)
            for name, info in tensor_infos(typed.graph).items()
            if info.type.tensor_type.HasField("shape")
        }
        return cls(
            opset=standard_opset(typed),
            types=element_types(typed.graph),
            shapes=shapes,
            constants=constants(typed.graph),
            from_data=_computed_from_data(typed.graph),
        )


def _shape(info: ValueInfoProto) -> tuple[int | None, ...]:
    dims = info.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


def _computed_from_data(graph: GraphProto) -> frozenset[str]:
    names = {info.name for info in graph.input}
    for node in graph.node:
        if node.op_type not in {"Shape", "Size"} and not names.isdisjoint(node.input):
            names.update(node.output)
    return frozenset(names)


def _model_problems(model: ModelProto) -> Iterator[str]:
    opset = standard_opset(model)
    if opset not in OPSETS:
        yield f"the graph is of opset {opset}; the parser takes {OPSETS.start} to {OPSETS.stop - 1}"
    for function in model.functions:
        yield f"model-local function {function.name!r}: inline it"
    for tensor in model.graph.sparse_initializer:
        yield f"initializer {tensor.values.name!r} is sparse"


def _boundary_problems(graph: GraphProto) -> Iterator[str]:
    defaults = {tensor.name for tensor in graph.initializer}
    for kind, infos in (("input", graph.input), ("output", graph.output)):
        for info in infos:
            if info.name in defaults:
                continue
            if not info.type.HasField("tensor_type"):
                yield f"{kind} {info.name!r} is no dense tensor"
            elif not info.type.tensor_type.HasField("shape"):
                yield f"{kind} {info.name!r} has no declared shape"
            else:
                for axis, size in enumerate(_shape(info)):
                    if axis and not size:
                        yield f"{kind} {info.name!r}: axis {axis} varies; only the batch axis may"


def _tensor_problems(graph: GraphProto, facts: _Facts) -> Iterator[str]:
    boundary = {info.name for info in (*graph.input, *graph.output)}
    for name, kind in facts.types.items():
        if kind == TensorProto.DOUBLE:
            yield f"tensor {name!r} is float64, which TensorRT narrows to float32"
        if kind == TensorProto.UINT8 and name not in boundary:
            yield f"tensor {name!r} is uint8; only inputs and outputs of the graph may be"
    for name, shape in facts.shapes.items():
        if len(shape) > MAX_RANK:
            yield f"tensor {name!r} has {len(shape)} axes; TensorRT takes {MAX_RANK}"


def _node_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    if node.domain not in STANDARD_DOMAINS:
        yield f"an operator of domain {node.domain!r}, not standard ONNX"
    elif any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        yield "has a subgraph, which no CUDA graph can hold"
    elif node.op_type not in OPERATORS:
        yield "TensorRT's parser does not know this operator"
    elif node.op_type in DATA_DEPENDENT:
        yield "the shape of its output depends on data: no CUDA graphs"
    else:
        yield from _type_problems(node, facts)
        yield from _shape_input_problems(node, facts)
        yield from _constant_input_problems(node, facts)
        if node.op_type in _RULES:
            yield from _RULES[node.op_type](node, facts)


def _type_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    allowed = OPERATORS[node.op_type]
    for name in _data_of(node, facts.opset):
        kind = facts.types.get(name)
        if kind is None:
            continue
        if kind == TensorProto.UINT8 and node.op_type not in {"Cast", "CastLike"}:
            yield f"tensor {name!r} is uint8, which only a Cast may touch"
        elif kind not in allowed | {TensorProto.DOUBLE}:
            yield f"tensor {name!r} is {_type_name(kind)}; allowed are {_type_names(allowed)}"


def _unknown_types(node: NodeProto, facts: _Facts) -> Iterator[str]:
    # What follows a node of unknown types has unknown types too: the first one is enough.
    if all(name in facts.types for name in node.input if name):
        for name in node.output:
            if name and name not in facts.types:
                yield f"ONNX cannot infer the element type of tensor {name!r}"


def _data_of(node: NodeProto, opset: int) -> list[str]:
    """The tensors that the table's element types speak of: data read, and data produced."""
    try:
        ports = data_ports(node, opset)
    except onnx.defs.SchemaError:
        # Older than the opset, such as Upsample, or never standard, such as ImageScaler.
        return list(node.input[:1])
    outputs = {0} if node.op_type in TYPED_BY_OUTPUT | {"Constant"} else ports.outputs
    read = [] if node.op_type in TYPED_BY_OUTPUT - {"Cast"} else sorted(ports.inputs)
    names = [node.input[slot] for slot in read] + [node.output[slot] for slot in sorted(outputs)]
    return [name for name in dict.fromkeys(names) if name]


def _type_name(kind: int) -> str:
    return TensorProto.DataType.Name(kind).lower()


def _type_names(kinds: Iterable[int]) -> str:
    return ", ".join(sorted(_type_name(kind) for kind in kinds))


def _shape_input_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    for slot in SHAPE_INPUTS.get(node.op_type, ()):
        if slot < len(node.input) and node.input[slot] in facts.from_data:
            yield (
                f"tensor {node.input[slot]!r} gives the shape of its output and depends on data: "
                "no CUDA graphs"
            )


def _constant_input_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    slot, name = CONSTANT_INPUTS.get(node.op_type, (0, ""))
    # Slot 0 is never asked for; older opsets have an attribute instead of the input.
    given = node.input[slot] if 0 < slot < len(node.input) else ""
    if given and given not in facts.constants:
        yield f"{name} must be a constant, tensor {given!r} is computed"


def _attributes(node: NodeProto) -> dict[str, Any]:
    """Values by name, with strings decoded."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in values.items()
    }


def _axis(node: NodeProto, facts: _Facts, default: int) -> tuple[int, int | None]:
    """The node's axis, counted from the last one (-1), and how many entries it has."""
    shape = facts.shapes.get(node.input[0], ())
    axis = _attributes(node).get("axis", default)
    from_last = axis - len(shape) if axis >= 0 and shape else axis
    return from_last, shape[from_last] if -len(shape) <= from_last < 0 else None


def _topk_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    attributes = _attributes(node)
    if attributes.get("sorted", 1) != 1:
        yield f"sorted must be 1 (tensor {node.output[0]!r})"
    num_kept = attributes.get("k")
    if len(node.input) > 1 and node.input[1] in facts.constants:
        num_kept = numpy_helper.to_array(facts.constants[node.input[1]]).item()
    if num_kept is not None and not 1 <= num_kept <= MAX_TOPK:
        yield f"K is {num_kept}; it must lie between 1 and {MAX_TOPK} (tensor {node.output[0]!r})"
    axis, num_entries = _axis(node, facts, -1)
    if num_kept is not None and num_entries is not None and num_kept > num_entries:
        yield f"K is {num_kept}, tensor {node.input[0]!r} has {num_entries} entries on axis {axis}"
    yield from _last_axes_problems(axis, node)


def _arg_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    axis, _ = _axis(node, facts, 0)
    yield from _last_axes_problems(axis, node)


def _last_axes_problems(axis: int, node: NodeProto) -> Iterator[str]:
    if axis < -TOPK_AXES:
        yield f"works along the last {TOPK_AXES} axes of tensor {node.input[0]!r}, not axis {axis}"


def _pooling_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    if any(node.output[1:]):
        yield f"its Indices output {node.output[1]!r} is not supported"
    rank = len(facts.shapes.get(node.input[0], (None,) * 4))
    if rank not in {4, 5}:
        yield f"pools in 2D or 3D only, tensor {node.input[0]!r} has {rank} axes"
    yield from _dilation_problems(node, facts)


def _dilation_problems(node: NodeProto, _: _Facts) -> Iterator[str]:
    if any(dilation != 1 for dilation in _attributes(node).get("dilations", ())):
        yield f"dilations must be 1 (tensor {node.input[0]!r})"


def _resize_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    attributes = _attributes(node)
    for name, choices in RESIZE_CHOICES.items():
        if attributes.get(name, choices[0]) not in choices:
            allowed = ", ".join(map(str, choices))
            yield f"{name} is {attributes[name]!r} (tensor {node.input[0]!r}); allowed: {allowed}"
    axes = attributes.get("axes")
    rank = len(facts.shapes.get(node.input[0], axes or ()))
    has_scales = len(node.input) > 2 and node.input[2]
    if axes is not None and has_scales and list(axes) != list(range(rank)):
        yield f"axes must be all of tensor {node.input[0]!r} in order, where scales are given"


def _constant_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    if node.output[0] not in facts.constants:
        yield f"tensor {node.output[0]!r} is sparse or holds strings"


_Rule = Callable[[NodeProto, _Facts], Iterator[str]]

_RULES: Mapping[str, _Rule] = {
    "ArgMax": _arg_problems,
    "ArgMin": _arg_problems,
    "AveragePool": _pooling_problems,
    "Constant": _constant_problems,
    "LpPool": _dilation_problems,
    "MaxPool": _pooling_problems,
    "Resize": _resize_problems,
    "TopK": _topk_problems,
}
