from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from model.deployment.onnx_fp16 import convert_trunk_to_fp16
from model.deployment.tensorrt_operators import OPERATORS
from model.deployment.tensorrt_support import (
    UnsupportedByTensorRT,
    check_tensorrt_support,
    require_tensorrt_support,
)
from tests.detector_graph import detector_graph

# Of the parser's table, but never or no longer in ONNX.
LEGACY = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}


def small_model(text: str, opset: int = 18, **initializers: NDArray[Any]) -> ModelProto:
    header = f'<ir_version: 10, opset_import: ["": {opset}, "com.example": 1]>'
    model = onnx.parser.parse_model(header + text)
    for name, value in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def problems(text: str, opset: int = 18, **initializers: NDArray[Any]) -> list[str]:
    return check_tensorrt_support(small_model(text, opset, **initializers))


def test_operators__are_names_that_onnx_knows() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    assert set(OPERATORS) - known - LEGACY == set()


def test_operators__leave_out_what_the_parser_cannot_do() -> None:
    unsupported = {"BitShift", "Compress", "Det", "MatMulInteger", "MaxUnpool", "Unique", "Swish"}
    assert unsupported.isdisjoint(OPERATORS)


def test_check__detector_has_no_problems() -> None:
    assert check_tensorrt_support(detector_graph()) == []


def test_check__detector_with_an_fp16_trunk_has_no_problems() -> None:
    assert check_tensorrt_support(convert_trunk_to_fp16(detector_graph())) == []


def test_check__reshape_by_the_batch_size_is_fine() -> None:
    assert (
        problems(
            """g (float[N, 2, 3] x) => (float[N, 6] y) {
                shape = Shape <end: int = 1> (x)
                target = Concat <axis: int = 0> (shape, six)
                y = Reshape (x, target)
            }""",
            six=np.array([6]),
        )
        == []
    )


def test_check__int64_in_and_out_is_fine() -> None:
    assert problems("g (int64[N] x) => (int64[N] y) { y = Add (x, x) }") == []


def test_check__uint8_out_of_a_cast_is_fine() -> None:
    assert problems("g (float[N] x) => (uint8[N] y) { y = Cast <to: int = 2> (x) }") == []


def test_require__passes_a_good_graph() -> None:
    require_tensorrt_support(detector_graph())


def test_require__names_every_problem() -> None:
    model = small_model(
        "g (float[N, 2] x) => (float[N, 2] y) { a = Det (x) b = Swish (x) y = Relu (x) }"
    )
    with pytest.raises(UnsupportedByTensorRT) as caught:
        require_tensorrt_support(model)
    assert len(caught.value.problems) == 2
    assert "Det node that produces 'a'" in str(caught.value)
    assert "Swish node that produces 'b'" in str(caught.value)


def test_check__messages_call_a_node_by_its_name() -> None:
    model = small_model("g (float[N, 2, 2] x) => (float[N] y) { y = Det (x) }")
    model.graph.node[0].name = "/head/Det"
    assert check_tensorrt_support(model) == [
        "Det node '/head/Det': TensorRT's parser does not know this operator"
    ]


@pytest.mark.parametrize(("opset", "num_problems"), [(8, 1), (9, 0), (24, 0), (25, 1)])
def test_check__opset(opset: int, num_problems: int) -> None:
    found = problems("g (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }", opset)
    assert found == [f"the graph is of opset {opset}; the parser takes 9 to 24"] * num_problems


def test_check__no_standard_opset() -> None:
    model = small_model("g (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }")
    del model.opset_import[0]
    assert "the graph is of opset 0; the parser takes 9 to 24" in check_tensorrt_support(model)


def test_check__foreign_operator() -> None:
    found = problems("g (float[N, 2] x) => (float[N, 2] y) { y = com.example.Magic (x) }")
    assert found == [
        "Magic node that produces 'y': an operator of domain 'com.example', not standard ONNX"
    ]


def test_check__local_function() -> None:
    model = small_model("g (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }")
    model.functions.add(name="block", domain="com.example")
    assert check_tensorrt_support(model) == ["model-local function 'block': inline it"]


def test_check__subgraph() -> None:
    found = problems(
        """g (float[N, 2] x, bool flag) => (float[N, 2] y) {
            y = If (flag) <
                then_branch = then_graph () => (float[N, 2] t) { t = Relu (x) },
                else_branch = else_graph () => (float[N, 2] e) { e = Neg (x) }
            >
        }"""
    )
    assert found == ["If node that produces 'y': has a subgraph, which no CUDA graph can hold"]


def test_check__non_zero() -> None:
    found = problems(
        "g (float[N, 2] x) => (int64[N, 2] y) { i = NonZero (x) y = Cast <to: int = 7> (x) }"
    )
    assert found == [
        "NonZero node that produces 'i': the shape of its output depends on data: no CUDA graphs"
    ]


def test_check__non_max_suppression() -> None:
    found = problems(
        """g (float[N, 20, 4] boxes, float[N, 3, 20] scores) => (float[N, 20, 4] y) {
            kept = NonMaxSuppression (boxes, scores)
            y = Identity (boxes)
        }"""
    )
    assert found == [
        "NonMaxSuppression node that produces 'kept': the shape of its output depends on data: "
        "no CUDA graphs"
    ]


def test_check__shape_out_of_data() -> None:
    found = problems(
        """g (float[N, 4] x, int64[1] wanted) => (float[N, 4] y) {
            doubled = Mul (wanted, wanted)
            a = Reshape (x, doubled)
            y = Relu (x)
        }"""
    )
    assert found == [
        "Reshape node that produces 'a': tensor 'doubled' gives the shape of its output and "
        "depends on data: no CUDA graphs"
    ]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("input", "g (float[N, H] x) => (float[N, 2] y) { y = Reshape (x, target) }"),
        ("output", "g (float[N, 2] x) => (float[N, H] y) { y = Reshape (x, target) }"),
    ],
)
def test_check__axis_that_varies(kind: str, text: str) -> None:
    name = {"input": "x", "output": "y"}[kind]
    assert problems(text, target=np.array([-1, 2])) == [
        f"{kind} '{name}': axis 1 varies; only the batch axis may"
    ]


def test_check__output_without_a_shape() -> None:
    model = small_model("g (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert check_tensorrt_support(model) == ["output 'y' has no declared shape"]


def test_check__sequence_input() -> None:
    model = small_model("g (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }")
    model.graph.input.append(
        helper.make_tensor_sequence_value_info("many", TensorProto.FLOAT, ["N"])
    )
    assert check_tensorrt_support(model) == ["input 'many' is no dense tensor"]


def test_check__float64() -> None:
    found = problems(
        """g (float[N, 2] x) => (float[N, 2] y) {
            wide = Cast <to: int = 11> (x)
            y = Cast <to: int = 1> (wide)
        }"""
    )
    assert found == ["tensor 'wide' is float64, which TensorRT narrows to float32"]


def test_check__float64_weight() -> None:
    found = problems(
        "g (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }", unused=np.array([1.0])
    )
    assert found == ["tensor 'unused' is float64, which TensorRT narrows to float32"]


def test_check__uint8_that_is_not_cast_at_once() -> None:
    found = problems(
        """g (uint8[N, 4, 4, 3] x) => (float[N, 3, 4, 4] y) {
            size = Shape (x)
            pixels = Cast <to: int = 1> (x)
            y = Transpose <perm: ints = [0, 3, 1, 2]> (pixels)
        }"""
    )
    assert found == [
        "Shape node that produces 'size': tensor 'x' is uint8, which only a Cast may touch"
    ]


def test_check__uint8_inside_the_network() -> None:
    found = problems(
        """g (float[N, 2] x) => (float[N, 2] y) {
            small = Cast <to: int = 2> (x)
            y = Cast <to: int = 1> (small)
        }"""
    )
    assert found == ["tensor 'small' is uint8; only inputs and outputs of the graph may be"]


def test_check__element_type_that_the_operator_does_not_take() -> None:
    found = problems("g (int32[N, 2] x) => (int32[N, 2] y) { y = Clip (x) }")
    assert found == [
        f"Clip node that produces 'y': tensor '{name}' is int32; allowed are bfloat16, float, "
        "float16"
        for name in "xy"
    ]


def test_check__cast_to_a_type_that_the_parser_does_not_take() -> None:
    found = problems("g (float[N, 2] x) => (int16[N, 2] y) { y = Cast <to: int = 5> (x) }")
    assert found == [
        "Cast node that produces 'y': tensor 'y' is int16; allowed are bfloat16, bool, float, "
        "float16, int32, int64, uint8"
    ]


def test_check__gather_elements_of_int8() -> None:
    found = problems(
        """g (int8[N, 2] x, int64[N, 2] i) => (int8[N, 2] y) {
            y = GatherElements <axis: int = 1> (x, i)
        }"""
    )
    assert [problem.partition(";")[0] for problem in found] == [
        f"GatherElements node that produces 'y': tensor '{name}' is int8" for name in "xy"
    ]


def test_check__tensor_of_too_many_axes() -> None:
    found = problems(
        "g (float[N, 2] x) => (float[N, 2] y) { a = Reshape (x, nine) y = Relu (x) }",
        nine=np.array([1, 1, 1, 1, 1, 1, 1, -1, 2]),
    )
    assert found == ["tensor 'a' has 9 axes; TensorRT takes 8"]


def test_check__type_that_onnx_cannot_infer() -> None:
    # Reshape to 3 * 2 entries out of 4: inference stops there.
    found = problems(
        """g (float[2, 2] x) => (float[2, 2] y) {
            a = Reshape (x, target)
            b = Relu (a)
            y = Relu (x)
        }""",
        target=np.array([3, -1]),
    )
    assert found == [
        "Reshape node that produces 'a': ONNX cannot infer the element type of tensor 'a'"
    ]


def test_check__graph_that_onnx_cannot_read() -> None:
    model = small_model("g (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }")
    model.graph.node[0].op_type = "Where"
    (found,) = check_tensorrt_support(model)
    assert found.startswith("ONNX cannot infer the graph's types and shapes")


@pytest.mark.parametrize(
    ("kept", "problem"),
    [
        (0, "K is 0; it must lie between 1 and 3840 (tensor 'y')"),
        (3841, "K is 3841; it must lie between 1 and 3840 (tensor 'y')"),
        (3840, None),
    ],
)
def test_check__topk_beyond_the_limit(kept: int, problem: str | None) -> None:
    found = problems(
        "g (float[N, 4000] x) => (float[N, K] y) { y, i = TopK (x, k) }",
        k=np.array([kept]),
    )
    about_topk = [line for line in found if line.startswith("TopK")]
    assert about_topk == ([f"TopK node that produces 'y', 'i': {problem}"] if problem else [])


def test_check__topk_of_more_than_there_are() -> None:
    found = problems(
        "g (float[N, 84] x) => (float[N, 84] y) { a, i = TopK (x, k) y = Relu (x) }",
        k=np.array([300]),
    )
    assert found == [
        "TopK node that produces 'a', 'i': K is 300, tensor 'x' has 84 entries on axis -1"
    ]


def test_check__topk_with_a_computed_k() -> None:
    found = problems(
        """g (float[N, 84] x, int64[1] k) => (float[N, 84] y) {
            a, i = TopK (x, k)
            y = Relu (x)
        }"""
    )
    assert found == [
        "TopK node that produces 'a', 'i': K must be a constant, tensor 'k' is computed"
    ]


def test_check__topk_unsorted() -> None:
    found = problems(
        "g (float[N, 84] x) => (float[N, 5] y) { y, i = TopK <sorted: int = 0> (x, k) }",
        k=np.array([5]),
    )
    assert found == ["TopK node that produces 'y', 'i': sorted must be 1 (tensor 'y')"]


@pytest.mark.parametrize("axis", [0, -5])
def test_check__argmax_along_a_far_axis(axis: int) -> None:
    found = problems(
        f"""g (float[N, 2, 3, 4, 5] x) => (int64[1, 2, 3, 4, 5] y) {{
            y = ArgMax <axis: int = {axis}> (x)
        }}"""
    )
    assert found == [
        "ArgMax node that produces 'y': works along the last 4 axes of tensor 'x', not axis -5"
    ]


def test_check__reduction_with_computed_axes() -> None:
    found = problems(
        """g (float[N, 2] x, int64[1] axes) => (float[N, 2] y) {
            a = ReduceMax (x, axes)
            y = Relu (x)
        }"""
    )
    assert found == [
        "ReduceMax node that produces 'a': axes must be a constant, tensor 'axes' is computed"
    ]


def test_check__axes_of_a_constant_node_are_constant() -> None:
    found = problems(
        """g (float[N, 2] x) => (float[N] y) {
            axes = Constant <value_ints: ints = [1]> ()
            y = ReduceMax <keepdims: int = 0> (x, axes)
        }"""
    )
    assert found == []


def test_check__axes_that_a_caller_may_replace_are_no_constant() -> None:
    found = problems(
        "g (float[N, 2] x, int64[1] axes) => (float[N, 1] y) { y = ReduceMax (x, axes) }",
        axes=np.array([1]),
    )
    assert found == [
        "ReduceMax node that produces 'y': axes must be a constant, tensor 'axes' is computed"
    ]


def test_check__max_pool_with_indices() -> None:
    found = problems(
        """g (float[N, 2, 8, 8] x) => (float[N, 2, 7, 7] y) {
            y, where = MaxPool <kernel_shape: ints = [2, 2]> (x)
        }"""
    )
    assert found == [
        "MaxPool node that produces 'y', 'where': its Indices output 'where' is not supported"
    ]


def test_check__pooling_in_one_dimension() -> None:
    found = problems(
        """g (float[N, 2, 8] x) => (float[N, 2, 7] y) {
            y = AveragePool <kernel_shape: ints = [2]> (x)
        }"""
    )
    assert found == [
        "AveragePool node that produces 'y': pools in 2D or 3D only, tensor 'x' has 3 axes"
    ]


def test_check__dilated_pooling() -> None:
    found = problems(
        """g (float[N, 2, 8, 8] x) => (float[N, 2, 6, 6] y) {
            y = MaxPool <kernel_shape: ints = [2, 2], dilations: ints = [2, 2]> (x)
        }"""
    )
    assert found == ["MaxPool node that produces 'y': dilations must be 1 (tensor 'x')"]


@pytest.mark.parametrize(
    ("attribute", "value", "problem"),
    [
        ("mode: string", '"cubic"', "mode is 'cubic' (tensor 'x'); allowed: nearest, linear"),
        (
            "coordinate_transformation_mode: string",
            '"half_pixel_symmetric"',
            "coordinate_transformation_mode is 'half_pixel_symmetric' (tensor 'x'); allowed: "
            "half_pixel, pytorch_half_pixel, tf_half_pixel_for_nn, asymmetric, align_corners",
        ),
        (
            "keep_aspect_ratio_policy: string",
            '"not_larger"',
            "keep_aspect_ratio_policy is 'not_larger' (tensor 'x'); allowed: stretch",
        ),
        ("antialias: int", "1", "antialias is 1 (tensor 'x'); allowed: 0"),
        (
            "axes: ints",
            "[2, 3, 0, 1]",
            "axes must be all of tensor 'x' in order, where scales are given",
        ),
    ],
)
def test_check__resize(attribute: str, value: str, problem: str) -> None:
    found = problems(
        f"""g (float[N, 2, 8, 8] x) => (float[N, 2, 16, 16] y) {{
            a = Resize <{attribute} = {value}> (x, , scales)
            b = Concat <axis: int = 3> (x, x)
            y = Concat <axis: int = 2> (b, b)
        }}""",
        opset=19,
        scales=np.array([1, 1, 2, 2], np.float32),
    )
    assert found == [f"Resize node that produces 'a': {problem}"]


def test_check__constant_of_strings() -> None:
    found = problems(
        """g (float[N, 2] x) => (float[N, 2] y) {
            names = Constant <value_strings: strings = ["a"]> ()
            y = Relu (x)
        }"""
    )
    assert "Constant node that produces 'names': tensor 'names' is sparse or holds strings" in found
