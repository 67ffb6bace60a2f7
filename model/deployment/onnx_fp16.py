"""The trunk of an exported network in fp16, for TensorRT builds where the graph alone says so.

A strongly typed build computes each layer in the type that the ONNX graph gives it. The trunk is
every node between the first and the last convolutions. Three parts stay fp32: what precedes the
first convolution (pixels up to 255 and their normalisation), what follows the last ones (fp16
steps are 0.5 pixels wide from 512 on), and channel attention, whose means run over whole maps.
Everything is found by the graph's structure, nothing by names.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from model.deployment.onnx_graph import (
    STANDARD_DOMAINS,
    constant_value,
    data_ports,
    element_types,
    label,
    standard_opset,
    tensor_infos,
)

SINGLE = TensorProto.FLOAT
HALF = TensorProto.FLOAT16

#: The largest finite fp16 number.
HALF_MAX = float(np.finfo(np.float16).max)

_SUFFIXES: Mapping[int, str] = {SINGLE: "fp32", HALF: "fp16"}
# These read a tensor of any type and hand none of its values on in that type.
_TYPE_BLIND = frozenset({"Shape", "Size", "Cast"})


def convert_trunk_to_fp16(model: ModelProto) -> ModelProto:
    """A copy of `model` whose trunk computes in fp16; see the module for what stays fp32.

    Graph inputs and outputs keep their names, types and shapes. Weights of the trunk become
    fp16; one that fp32 nodes use as well is kept twice. Casts stand at the borders only, one per
    tensor. Constant nodes become initializers. Weights smaller than 3e-8 become zero, which is
    less than the rounding of a neighbour of size 1e-4.

    Raises `ValueError` for a graph without convolutions, with fp16 tensors already (a second
    pass), with subgraphs, model-local functions or operators that are not standard ONNX, for one
    whose types cannot be inferred, and for weights beyond the range of fp16.
    """
    _refuse_unsuitable(model)
    converted = ModelProto()
    converted.CopyFrom(model)
    _constants_to_initializers(converted.graph)
    typed = _with_inferred_types(converted)
    if HALF in element_types(typed.graph).values():
        raise ValueError("the graph has fp16 tensors already: convert the fp32 export, once")
    _PrecisionRewriter(typed.graph, standard_opset(typed)).rewrite()
    onnx.checker.check_model(typed, full_check=True)
    return typed


@dataclass(frozen=True)
class PrecisionReport:
    """How many nodes of each operator compute in which precision; Casts are counted apart."""

    fp16: Mapping[str, int]
    fp32: Mapping[str, int]
    num_casts: int


def precision_report(model: ModelProto) -> PrecisionReport:
    """Which operators of `model` compute in fp16 and which in fp32, for logs and checks.

    A node counts by the element type of its data inputs. Nodes on integers count nowhere.
    """
    typed = _with_inferred_types(model)
    types, opset = element_types(typed.graph), standard_opset(typed)
    counts: dict[int, Counter[str]] = {HALF: Counter(), SINGLE: Counter()}
    num_casts = 0
    for node in typed.graph.node:
        num_casts += node.op_type == "Cast"
        if node.op_type in _TYPE_BLIND:
            continue
        slots = data_ports(node, opset).inputs
        for precision in {types.get(node.input[slot], 0) for slot in slots} & counts.keys():
            counts[precision][node.op_type] += 1
    return PrecisionReport(dict(counts[HALF]), dict(counts[SINGLE]), num_casts)


def _refuse_unsuitable(model: ModelProto) -> None:
    if model.functions:
        raise ValueError("the graph has model-local functions: inline them before the fp16 pass")
    for node in model.graph.node:
        if node.domain not in STANDARD_DOMAINS:
            raise ValueError(f"{label(node)} is of domain {node.domain!r}, not standard ONNX")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ValueError(f"{label(node)} has a subgraph, which the fp16 pass does not enter")
    if not any(node.op_type == "Conv" for node in model.graph.node):
        raise ValueError("the graph has no Conv node, hence no trunk to convert to fp16")


def _with_inferred_types(model: ModelProto) -> ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        raise ValueError(f"the graph's types cannot be inferred: {error}") from error


def _constants_to_initializers(graph: GraphProto) -> None:
    """So that a constant is treated as a weight is. Strings and sparse tensors stay nodes."""
    kept = []
    for node in graph.node:
        value = constant_value(node)
        if value is None:
            kept.append(_copied(node))
            continue
        value.name = node.output[0]
        graph.initializer.append(value)
    del graph.node[:]
    graph.node.extend(kept)


def _trunk(graph: GraphProto) -> set[int]:
    """Positions of the nodes that are, or lie between, convolutions."""
    computed_by_conv: set[str] = set()
    after = set()
    for position, node in enumerate(graph.node):
        if node.op_type == "Conv" or not computed_by_conv.isdisjoint(node.input):
            after.add(position)
            computed_by_conv.update(node.output)
    needed_by_conv: set[str] = set()
    before = set()
    for position, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "Conv" or not needed_by_conv.isdisjoint(node.output):
            before.add(position)
            needed_by_conv.update(node.input)
    return after & before


def _channel_attention(graph: GraphProto, trunk: set[int], types: Mapping[str, int]) -> set[int]:
    """Positions of the trunk's nodes that compute gates out of means over whole maps.

    An island starts at a pooling and takes in every node that reads nothing but the island and
    constants. It ends by itself where the gate meets the map: `Mul` reads the map as well.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    pooled: set[str] = set()
    island = set()
    for position, node in enumerate(graph.node):
        if position not in trunk:
            continue
        read = [name for name in node.input if types.get(name) == SINGLE and name not in constants]
        if _pools_whole_maps(node, constants) or (read and pooled.issuperset(read)):
            island.add(position)
            pooled.update(node.output)
    return island


def _pools_whole_maps(node: NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """A mean over height and width of [n, c, h, w]."""
    if node.op_type == "GlobalAveragePool":
        return True
    if node.op_type != "ReduceMean":
        return False
    # Axes are an attribute up to opset 17, an input from 18 on.
    axes = [
        axis for attribute in node.attribute if attribute.name == "axes" for axis in attribute.ints
    ]
    if len(node.input) > 1 and node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
    return sorted(axis % 4 for axis in axes) == [2, 3]


class _PrecisionRewriter:
    """Rewrites one graph in place: decides each node's precision, then mends what lies between.

    A tensor of the original graph has up to two versions, fp16 and fp32. The one that its node
    computes keeps the name, except for graph outputs, whose name belongs to the fp32 version.
    """

    def __init__(self, graph: GraphProto, opset: int) -> None:
        self._graph = graph
        self._types = element_types(graph)
        self._infos = tensor_infos(graph)
        # An initializer that is a graph input too is only a default: callers may pass another.
        inputs = {info.name for info in graph.input}
        self._weights = {
            tensor.name: tensor
            for tensor in graph.initializer
            if tensor.data_type == SINGLE and tensor.name not in inputs
        }
        self._outputs = {info.name for info in graph.output}
        self._ports = [data_ports(node, opset) for node in graph.node]
        trunk = _trunk(graph)
        islands = _channel_attention(graph, trunk, self._types)
        self._half_nodes = {
            position for position in trunk - islands if self._computes_floats(position)
        }
        self._names = set(self._types) | {name for node in graph.node for name in node.output}
        # (tensor, precision) -> the name of that version, for versions that exist by now.
        self._versions: dict[tuple[str, int], str] = {}
        self._computed_in: dict[str, int] = {}
        self._nodes: list[NodeProto] = []

    def rewrite(self) -> None:
        self._convert_weights()
        for info in self._graph.input:
            if self._types.get(info.name) == SINGLE:
                self._add_computed(info.name, SINGLE)
        for position, node in enumerate(self._graph.node):
            for slot, precision in self._reads(position):
                node.input[slot] = self._version(node.input[slot], precision)
            self._nodes.append(node)
            self._name_outputs(position)
        self._replace_nodes()
        self._replace_value_info()

    def _computes_floats(self, position: int) -> bool:
        """Whether the node has float data to compute on, and may do so in fp16."""
        node, ports = self._graph.node[position], self._ports[position]
        if node.op_type == "Cast":
            return self._types.get(node.output[0]) == SINGLE
        if "tensor(float16)" not in ports.element_types or node.op_type in _TYPE_BLIND:
            return False
        return any(self._types.get(node.input[slot]) == SINGLE for slot in ports.inputs)

    def _reads(self, position: int) -> Iterator[tuple[int, int]]:
        """(input slot, precision) of each float that the node reads."""
        node, ports = self._graph.node[position], self._ports[position]
        for slot, name in enumerate(node.input):
            if self._types.get(name) != SINGLE:
                continue
            if node.op_type in _TYPE_BLIND:
                yield slot, self._computed_in.get(name, SINGLE)
            elif position in self._half_nodes and slot in ports.inputs:
                yield slot, HALF
            else:
                # Not data, such as the scales of a Resize: fp32 by specification or by choice.
                yield slot, SINGLE

    def _convert_weights(self) -> None:
        used_as: dict[str, set[int]] = {name: set() for name in self._weights}
        for position, node in enumerate(self._graph.node):
            for slot, precision in self._reads(position):
                used_as.get(node.input[slot], set()).add(precision)
        for name, precisions in used_as.items():
            if HALF not in precisions:
                self._versions[name, SINGLE] = name
                continue
            is_shared = SINGLE in precisions or name in self._outputs
            half_name = self._fresh_name(name, HALF) if is_shared else name
            half = _half_weight(self._weights[name], half_name)
            self._versions[name, HALF] = half_name
            if is_shared:
                self._versions[name, SINGLE] = name
                self._graph.initializer.append(half)
            else:
                self._weights[name].CopyFrom(half)

    def _name_outputs(self, position: int) -> None:
        node, ports = self._graph.node[position], self._ports[position]
        is_half = position in self._half_nodes
        if is_half and node.op_type == "Cast":
            next(attribute for attribute in node.attribute if attribute.name == "to").i = HALF
        for slot, name in enumerate(node.output):
            if self._types.get(name) != SINGLE:
                continue
            if not is_half or not (slot in ports.outputs or node.op_type == "Cast"):
                self._add_computed(name, SINGLE)
            elif name not in self._outputs:
                self._add_computed(name, HALF)
            else:
                node.output[slot] = self._fresh_name(name, HALF)
                self._versions[name, HALF] = node.output[slot]
                self._computed_in[name] = HALF
                self._append_cast(name, SINGLE, name)

    def _add_computed(self, name: str, precision: int) -> None:
        self._versions[name, precision] = name
        self._computed_in[name] = precision

    def _version(self, name: str, precision: int) -> str:
        if (name, precision) not in self._versions:
            self._append_cast(name, precision, self._fresh_name(name, precision))
        return self._versions[name, precision]

    def _append_cast(self, name: str, precision: int, cast_name: str) -> None:
        source = self._versions[name, self._computed_in[name]]
        self._nodes.append(
            onnx.helper.make_node(
                "Cast", [source], [cast_name], name=f"Cast_{cast_name}", to=precision
            )
        )
        self._versions[name, precision] = cast_name

    def _fresh_name(self, name: str, precision: int) -> str:
        fresh = f"{name}_{_SUFFIXES[precision]}"
        while fresh in self._names:
            fresh += "_"
        self._names.add(fresh)
        return fresh

    def _replace_nodes(self) -> None:
        # Most of them live inside the graph: they are copied out before it is emptied.
        nodes = [_copied(node) for node in self._nodes]
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _replace_value_info(self) -> None:
        floats = {name for name, _ in self._versions}
        infos = [info for name, info in self._infos.items() if name not in floats]
        for (name, precision), version in self._versions.items():
            if name in self._infos:
                info = ValueInfoProto()
                info.CopyFrom(self._infos[name])
                info.name = version
                info.type.tensor_type.elem_type = precision
                infos.append(info)
        declared = {info.name for info in (*self._graph.input, *self._graph.output)}
        kept = [_copied(info) for info in infos if info.name not in declared]
        del self._graph.value_info[:]
        self._graph.value_info.extend(kept)


def _half_weight(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    too_large = np.isfinite(values) & (np.abs(values) > HALF_MAX)
    if too_large.any():
        largest = np.abs(values[too_large]).max()
        raise ValueError(
            f"weight {tensor.name!r}: {int(too_large.sum())} of {values.size} values lie beyond "
            f"the range of fp16 (+-{HALF_MAX:.0f}), the largest is {largest:g}"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)


_Message = TypeVar("_Message", NodeProto, ValueInfoProto)


def _copied(message: _Message) -> _Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
