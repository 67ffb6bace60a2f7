from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from model.deployment.onnx_fp16 import HALF_MAX, convert_trunk_to_fp16, precision_report
from model.deployment.onnx_graph import element_types
from tests.detector_graph import detector_graph, exposed

ATTENTION = {"mean1", "fc1", "gate1", "mean2", "fc2", "gate2"}
BEFORE_TRUNK = {"pixels", "planes", "centred", "normalised"}
TRUNK = {
    *("stem", "stem_sigmoid", "c2", "attended1", "down", "down_sigmoid", "c4", "attended2"),
    *("depthwise", "halved", "pooled", "pyramid", "p4", "nearest", "linear", "upsampled", "p2"),
    *("logits2", "logits4", "distances2", "distances4"),
}


def small_model(text: str, **initializers: NDArray[Any]) -> ModelProto:
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 18]>' + text)
    for name, value in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def kernel(*shape: int, value: float = 0.5) -> NDArray[np.float32]:
    return np.full(shape, value, np.float32)


def inferred_types(model: ModelProto) -> dict[str, int]:
    """Element types derived from nodes and weights alone, not from what the graph declares."""
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    typed = onnx.shape_inference.infer_shapes(
        bare, check_type=True, strict_mode=True, data_prop=True
    )
    return element_types(typed.graph)


def outputs_on_cpu(model: ModelProto, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    answers = (np.asarray(answer) for answer in session.run(names, dict(feeds)))
    return dict(zip(names, answers, strict=True))


def images(count: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (count, 32, 32, 3), np.uint8)


def node_that_makes(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if name in node.output)


def casts(model: ModelProto) -> list[tuple[str, int]]:
    return [
        (node.input[0], helper.get_node_attr_value(node, "to"))
        for node in model.graph.node
        if node.op_type == "Cast"
    ]


def test_convert__gives_a_valid_graph_with_the_same_inputs_and_outputs() -> None:
    original = detector_graph()
    converted = convert_trunk_to_fp16(original)
    onnx.checker.check_model(converted, full_check=True)
    assert list(converted.graph.input) == list(original.graph.input)
    assert list(converted.graph.output) == list(original.graph.output)


def test_convert__declares_the_types_that_the_nodes_give() -> None:
    converted = convert_trunk_to_fp16(detector_graph())
    assert element_types(converted.graph) == inferred_types(converted)


def test_convert__leaves_the_original_alone() -> None:
    original = detector_graph()
    before = original.SerializeToString(deterministic=True)
    convert_trunk_to_fp16(original)
    assert original.SerializeToString(deterministic=True) == before


def test_convert__answers_are_close_to_fp32() -> None:
    original = exposed(detector_graph(), "all_boxes", TensorProto.FLOAT, ["N", 320, 4])
    converted = convert_trunk_to_fp16(original)
    expected = outputs_on_cpu(original, {"images": images()})
    actual = outputs_on_cpu(converted, {"images": images()})
    np.testing.assert_allclose(actual["all_boxes"], expected["all_boxes"], atol=0.05)
    np.testing.assert_allclose(actual["scores"], expected["scores"], atol=2e-3)
    np.testing.assert_allclose(actual["masks"], expected["masks"], atol=5e-3)
    # The fp16 pass did something: fp32 answers would agree to the last bits.
    assert np.abs(actual["masks"] - expected["masks"]).max() > 1e-5


def test_convert__row_of_a_batch_equals_the_image_alone() -> None:
    converted = convert_trunk_to_fp16(detector_graph())
    together = outputs_on_cpu(converted, {"images": images(3)})
    alone = outputs_on_cpu(converted, {"images": images(3)[1:2]})
    for name in ("scores", "masks"):
        np.testing.assert_allclose(together[name][1:2], alone[name], atol=2e-3)


def test_convert__trunk_is_fp16() -> None:
    types = inferred_types(convert_trunk_to_fp16(detector_graph()))
    assert {name: types[name] for name in TRUNK} == dict.fromkeys(TRUNK, TensorProto.FLOAT16)


def test_convert__every_trunk_convolution_has_fp16_weights() -> None:
    converted = convert_trunk_to_fp16(detector_graph())
    types = inferred_types(converted)
    for node in converted.graph.node:
        if node.op_type == "Conv" and node.output[0] not in ATTENTION:
            assert {types[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}


@pytest.mark.parametrize("part", [BEFORE_TRUNK, ATTENTION], ids=["before", "attention"])
def test_convert__islands_are_fp32(part: set[str]) -> None:
    converted = convert_trunk_to_fp16(detector_graph())
    types = inferred_types(converted)
    for name in part:
        node = node_that_makes(converted, name)
        kinds = {types[tensor] for tensor in (*node.input, *node.output)}
        assert TensorProto.FLOAT16 not in kinds, name
        assert types[name] == TensorProto.FLOAT


def test_convert__everything_after_the_last_convolutions_is_fp32() -> None:
    converted = convert_trunk_to_fp16(detector_graph())
    types = inferred_types(converted)
    nodes = list(converted.graph.node)
    last_conv = max(i for i, node in enumerate(nodes) if node.op_type == "Conv")
    decode = [node for node in nodes[last_conv + 1 :] if node.op_type != "Cast"]
    assert len(decode) > 20
    for node in decode:
        kinds = {types[tensor] for tensor in (*node.input, *node.output)}
        assert TensorProto.FLOAT16 not in kinds, node.name


def test_convert__casts_are_shared_and_none_follows_another() -> None:
    converted = convert_trunk_to_fp16(detector_graph())
    assert len(casts(converted)) == len(set(casts(converted)))
    made_by_cast = {
        node.output[0] for node in converted.graph.node if node.op_type == "Cast"
    } - BEFORE_TRUNK
    assert made_by_cast.isdisjoint(source for source, _ in casts(converted))
    # Into the trunk 1, into and out of two islands 4, out of five last convolutions 5; and the
    # two of the original graph: pixels and labels.
    assert len(casts(converted)) == 12


def test_convert__weight_of_both_precisions_is_kept_twice() -> None:
    converted = convert_trunk_to_fp16(detector_graph())
    types = element_types(converted.graph)
    trunk_name = node_that_makes(converted, "halved").input[1]
    decode_name = node_that_makes(converted, "twice").input[1]
    assert (types[trunk_name], types[decode_name]) == (TensorProto.FLOAT16, TensorProto.FLOAT)
    assert decode_name == "one_half"


def test_convert__weight_of_the_trunk_alone_is_kept_once() -> None:
    converted = convert_trunk_to_fp16(detector_graph())
    names = [tensor.name for tensor in converted.graph.initializer]
    assert len(names) == len(detector_graph().graph.initializer) + 1


def test_convert__resize_scales_and_roi_stay_fp32() -> None:
    converted = convert_trunk_to_fp16(detector_graph())
    types = inferred_types(converted)
    data, roi, scales = (types[name] for name in node_that_makes(converted, "nearest").input)
    assert (data, roi, scales) == (TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.FLOAT)


def test_convert__graph_output_inside_the_trunk_keeps_its_name_and_type() -> None:
    original = exposed(detector_graph(), "p2", TensorProto.FLOAT, ["N", 8, 16, 16])
    converted = convert_trunk_to_fp16(original)
    types = inferred_types(converted)
    assert types["p2"] == TensorProto.FLOAT
    assert types[node_that_makes(converted, "logits2").input[0]] == TensorProto.FLOAT16
    actual = outputs_on_cpu(converted, {"images": images()})["p2"]
    expected = outputs_on_cpu(original, {"images": images()})["p2"]
    np.testing.assert_allclose(actual, expected, atol=5e-3)


def test_convert__constant_nodes_are_treated_as_weights() -> None:
    original = detector_graph()
    with_nodes = ModelProto()
    with_nodes.CopyFrom(original)
    del with_nodes.graph.initializer[:]
    for tensor in reversed(original.graph.initializer):
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        with_nodes.graph.node.insert(0, node)
    actual = convert_trunk_to_fp16(with_nodes)
    expected = convert_trunk_to_fp16(original)
    assert {tensor.name: tensor for tensor in actual.graph.initializer} == {
        tensor.name: tensor for tensor in expected.graph.initializer
    }
    assert list(actual.graph.node) == list(expected.graph.node)


def test_convert__constant_node_with_a_plain_number() -> None:
    model = small_model(
        """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {
            factor = Constant <value_float: float = 0.25> ()
            a = Conv (x, w)
            b = Mul (a, factor)
            y = Conv (b, w)
        }""",
        w=kernel(2, 2, 1, 1),
    )
    converted = convert_trunk_to_fp16(model)
    factor = next(t for t in converted.graph.initializer if t.name == "factor")
    assert numpy_helper.to_array(factor) == np.float16(0.25)


def test_convert__casts_inside_the_trunk_aim_at_fp16() -> None:
    model = small_model(
        """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {
            a = Conv (x, w)
            whole = Cast <to: int = 6> (a)
            b = Cast <to: int = 1> (whole)
            y = Conv (b, w)
        }""",
        w=kernel(2, 2, 1, 1),
    )
    converted = convert_trunk_to_fp16(model)
    assert inferred_types(converted)["b"] == TensorProto.FLOAT16
    # x to fp16, the two of the original graph, y to fp32.
    assert len(casts(converted)) == 4


def test_convert__hard_sigmoid_that_is_no_attention_is_fp16() -> None:
    model = small_model(
        """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {
            a = Conv (x, w)
            b = HardSigmoid (a)
            y = Conv (b, w)
        }""",
        w=kernel(2, 2, 1, 1),
    )
    types = inferred_types(convert_trunk_to_fp16(model))
    assert types["b"] == TensorProto.FLOAT16


def test_convert__mean_over_channels_is_no_attention() -> None:
    model = small_model(
        """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {
            a = Conv (x, w)
            b = ReduceMean <keepdims: int = 1> (a, axes)
            c = Sub (a, b)
            y = Conv (c, w)
        }""",
        w=kernel(2, 2, 1, 1),
        axes=np.array([1]),
    )
    types = inferred_types(convert_trunk_to_fp16(model))
    assert types["b"] == TensorProto.FLOAT16


def test_convert__new_names_evade_those_of_the_graph() -> None:
    model = small_model(
        """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y, float[1, 2, 4, 4] x_fp16) {
            a = Conv (x, w)
            y = Conv (a, w)
            x_fp16 = Neg (x)
        }""",
        w=kernel(2, 2, 1, 1),
    )
    feeds = {"x": np.ones((1, 2, 4, 4), np.float32)}
    answers = outputs_on_cpu(convert_trunk_to_fp16(model), feeds)
    assert (answers["x_fp16"] == -1).all()
    assert (answers["y"] == 1).all()


def test_convert__weight_that_a_caller_may_replace_stays_fp32() -> None:
    model = small_model(
        """g (float[1, 2, 4, 4] x, float[2, 2, 1, 1] w) => (float[1, 2, 4, 4] y) {
            y = Conv (x, w)
        }""",
        w=kernel(2, 2, 1, 1),
    )
    converted = convert_trunk_to_fp16(model)
    assert inferred_types(converted)["w"] == TensorProto.FLOAT
    feeds = {"x": np.ones((1, 2, 4, 4), np.float32), "w": kernel(2, 2, 1, 1, value=2.0)}
    assert (outputs_on_cpu(converted, feeds)["y"] == 4).all()


def test_convert__weight_beyond_fp16_is_refused() -> None:
    weight = kernel(2, 2, 1, 1)
    weight[0, 0] = -HALF_MAX - 100
    model = small_model(
        "g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) { y = Conv (x, w) }", w=weight
    )
    with pytest.raises(ValueError, match=r"weight 'w': 1 of 4 values .* largest is 65604"):
        convert_trunk_to_fp16(model)


def test_convert__infinite_and_tiny_weights_pass() -> None:
    weight = kernel(2, 2, 1, 1)
    weight[0, 0], weight[0, 1], weight[1, 0] = -np.inf, 1e-9, HALF_MAX
    model = small_model(
        "g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) { y = Conv (x, w) }", w=weight
    )
    (half,) = convert_trunk_to_fp16(model).graph.initializer
    expected = np.array([-np.inf, 0, HALF_MAX, 0.5], np.float16)
    np.testing.assert_array_equal(numpy_helper.to_array(half).ravel(), expected)


def test_convert__graph_without_convolutions_is_refused() -> None:
    model = small_model("g (float[1, 2] x) => (float[1, 2] y) { y = Relu (x) }")
    with pytest.raises(ValueError, match="no Conv node"):
        convert_trunk_to_fp16(model)


def test_convert__second_pass_is_refused() -> None:
    converted = convert_trunk_to_fp16(detector_graph())
    with pytest.raises(ValueError, match="fp16 tensors already"):
        convert_trunk_to_fp16(converted)


def test_convert__foreign_operator_is_refused() -> None:
    model = detector_graph()
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.node[4].domain = "com.example"
    with pytest.raises(ValueError, match=r"Conv node 'n4_stem' is of domain 'com\.example'"):
        convert_trunk_to_fp16(model)


def test_convert__local_functions_are_refused() -> None:
    model = detector_graph()
    model.functions.add(name="block", domain="here")
    with pytest.raises(ValueError, match="inline them"):
        convert_trunk_to_fp16(model)


def test_convert__subgraph_is_refused() -> None:
    model = small_model(
        """g (float[1, 2, 4, 4] x, bool flag) => (float[1, 2, 4, 4] y) {
            a = Conv (x, w)
            y = If (flag) <
                then_branch = then_graph () => (float[1, 2, 4, 4] t) { t = Relu (a) },
                else_branch = else_graph () => (float[1, 2, 4, 4] e) { e = Neg (a) }
            >
        }""",
        w=kernel(2, 2, 1, 1),
    )
    with pytest.raises(ValueError, match="If node that produces 'y' has a subgraph"):
        convert_trunk_to_fp16(model)


def test_convert__inconsistent_types_are_refused() -> None:
    model = small_model(
        "g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) { y = Conv (x, w) }",
        w=np.ones((2, 2, 1, 1), np.float64),
    )
    with pytest.raises(ValueError, match="types cannot be inferred"):
        convert_trunk_to_fp16(model)


def test_precision_report__counts_operators_by_precision() -> None:
    report = precision_report(convert_trunk_to_fp16(detector_graph()))
    assert report.fp16 == {
        "Conv": 9,
        "Sigmoid": 2,
        "Mul": 5,
        "Add": 2,
        "Concat": 1,
        "MaxPool": 1,
        "Resize": 2,
    }
    assert report.fp32["Conv"] == 2
    assert report.fp32["HardSigmoid"] == 2
    assert report.num_casts == 12


def test_precision_report__fp32_export_has_no_fp16() -> None:
    report = precision_report(detector_graph())
    assert report.fp16 == {}
    assert report.fp32["Conv"] == 11
