"""Reading an ONNX graph: its opset, the element type of each tensor, which ports carry data.

What the fp16 pass and the TensorRT check both ask. Nothing here changes a graph, and nothing
imports torch.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

#: The names under which the standard operators are filed.
STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class DataPorts:
    """The inputs and outputs of a node, by position, that share the element type of its data.

    `Resize` has one such input (not `roi`, `scales` or `sizes`), `Concat` all of them.
    `element_types` are those that the operator's specification allows there, spelled as ONNX
    spells them: `tensor(float16)`.
    """

    inputs: frozenset[int]
    outputs: frozenset[int]
    element_types: frozenset[str]


def standard_opset(model: ModelProto) -> int:
    """The version of the standard operators that `model` imports; 0 if it imports none."""
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
    return max(versions, default=0)


def tensor_infos(graph: GraphProto) -> dict[str, ValueInfoProto]:
    """What the graph declares about its tensors: inputs, outputs and values in between."""
    return {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}


def element_types(graph: GraphProto) -> dict[str, int]:
    """`TensorProto.DataType` of every tensor that is declared, or that is an initializer.

    Run shape inference first: a tensor that it knows nothing about is missing here. So are
    values that are no dense tensors (sequences, optionals, sparse tensors).
    """
    types = {
        name: info.type.tensor_type.elem_type
        for name, info in tensor_infos(graph).items()
        if info.type.tensor_type.elem_type
    }
    types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    return types


def constant_value(node: NodeProto) -> TensorProto | None:
    """A copy of what a Constant node holds; None for strings, sparse tensors and other nodes."""
    if node.op_type != "Constant":
        return None
    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    match attribute.name:
        case "value":
            tensor = TensorProto()
            tensor.CopyFrom(value)
            return tensor
        case "value_float" | "value_floats":
            return numpy_helper.from_array(np.asarray(value, np.float32))
        case "value_int" | "value_ints":
            return numpy_helper.from_array(np.asarray(value, np.int64))
    return None


def constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Every tensor whose value stands in the graph: initializers and what Constant nodes hold.

    An initializer that is a graph input too is only a default, hence no constant.
    """
    inputs = {info.name for info in graph.input}
    known = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in inputs}
    for node in graph.node:
        value = constant_value(node)
        if value is not None:
            known[node.output[0]] = value
    return known


def label(node: NodeProto) -> str:
    """How messages call a node: its operator and its name, or what it produces if it has none."""
    if node.name:
        return f"{node.op_type} node {node.name!r}"
    return f"{node.op_type} node that produces {', '.join(map(repr, node.output))}"


def data_ports(node: NodeProto, opset: int) -> DataPorts:
    """Which ports of a standard operator carry its data, by its specification in `opset`.

    The data's type variable is the first output's, if an input has it too (`Where`: not the
    condition), and otherwise the first input's (`Greater`, `ArgMax`, `Cast`).

    Raises `onnx.defs.SchemaError` for an operator that `opset` does not have.
    """
    return _data_ports(node.op_type, opset, len(node.input), len(node.output))


@lru_cache(maxsize=512)
def _data_ports(op_type: str, opset: int, num_inputs: int, num_outputs: int) -> DataPorts:
    schema = onnx.defs.get_schema(op_type, opset, "")
    inputs = [port.type_str for port in schema.inputs]
    outputs = [port.type_str for port in schema.outputs]
    if not inputs:
        return DataPorts(frozenset(), frozenset(), frozenset())
    variable = outputs[0] if outputs and outputs[0] in inputs else inputs[0]
    # A port that takes any number of tensors is described once, as the last.
    inputs += inputs[-1:] * (num_inputs - len(inputs))
    outputs += outputs[-1:] * (num_outputs - len(outputs))
    allowed = {
        constraint.type_param_str: constraint.allowed_type_strs
        for constraint in schema.type_constraints
    }
    return DataPorts(
        inputs=frozenset(i for i, name in enumerate(inputs[:num_inputs]) if name == variable),
        outputs=frozenset(i for i, name in enumerate(outputs[:num_outputs]) if name == variable),
        element_types=frozenset(allowed.get(variable, (variable,))),
    )
