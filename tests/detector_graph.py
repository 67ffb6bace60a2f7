"""A small ONNX graph of the shape that exported detectors have, for tests on graphs."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

#: Output channels, input channels per group, height and width of each convolution's weight.
CONVOLUTIONS = {
    "stem": (8, 3, 3, 3),
    "fc1": (8, 8, 1, 1),
    "down": (8, 8, 3, 3),
    "fc2": (8, 8, 1, 1),
    "depthwise": (8, 1, 5, 5),
    "reduce": (8, 16, 1, 1),
    "classes": (3, 8, 1, 1),
    "distances": (4, 8, 1, 1),
    "masks": (4, 8, 1, 1),
}
NUM_CANDIDATES = 20

# Two levels of strides 2 and 4 on an input of 32x32: 16 * 16 + 8 * 8 = 320 priors.
_TEXT = """
<ir_version: 10, opset_import: ["": 18]>
detector (uint8[N, 32, 32, 3] images) => (
    float[N, 20, 4] boxes, float[N, 20] scores, int32[N, 20] labels, float[N, 4, 16, 16] masks
) {
    pixels = Cast <to: int = 1> (images)
    planes = Transpose <perm: ints = [0, 3, 1, 2]> (pixels)
    centred = Sub (planes, mean)
    normalised = Mul (centred, inverse_std)

    stem = Conv <kernel_shape: ints = [3, 3], strides: ints = [2, 2], pads: ints = [1, 1, 1, 1]>
        (normalised, stem_weight, stem_bias)
    stem_sigmoid = Sigmoid (stem)
    c2 = Mul (stem, stem_sigmoid)
    mean1 = GlobalAveragePool (c2)
    fc1 = Conv (mean1, fc1_weight, fc1_bias)
    gate1 = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.5> (fc1)
    attended1 = Mul (c2, gate1)

    down = Conv <kernel_shape: ints = [3, 3], strides: ints = [2, 2], pads: ints = [1, 1, 1, 1]>
        (attended1, down_weight, down_bias)
    down_sigmoid = Sigmoid (down)
    c4 = Mul (down, down_sigmoid)
    mean2 = ReduceMean <keepdims: int = 1> (c4, spatial_axes)
    fc2 = Conv (mean2, fc2_weight, fc2_bias)
    gate2 = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.5> (fc2)
    attended2 = Mul (c4, gate2)
    depthwise = Conv <group: int = 8, kernel_shape: ints = [5, 5], pads: ints = [2, 2, 2, 2]>
        (attended2, depthwise_weight, depthwise_bias)
    halved = Mul (depthwise, one_half)
    pooled = MaxPool <kernel_shape: ints = [5, 5], pads: ints = [2, 2, 2, 2]> (halved)
    pyramid = Concat <axis: int = 1> (halved, pooled)
    p4 = Conv (pyramid, reduce_weight, reduce_bias)
    nearest = Resize <
        mode: string = "nearest", nearest_mode: string = "floor",
        coordinate_transformation_mode: string = "asymmetric"
    > (p4, roi, scales)
    c2_shape = Shape (c2)
    linear = Resize <mode: string = "linear"> (p4, , , c2_shape)
    upsampled = Add (nearest, linear)
    p2 = Add (upsampled, attended1)

    logits2 = Conv (p2, classes_weight, classes_bias)
    logits4 = Conv (p4, classes_weight, classes_bias)
    distances2 = Conv (p2, distances_weight, distances_bias)
    distances4 = Conv (p4, distances_weight, distances_bias)
    masks = Conv (p2, masks_weight, masks_bias)

    flat_logits2 = Reshape (logits2, flat)
    flat_logits4 = Reshape (logits4, flat)
    all_logits = Concat <axis: int = 2> (flat_logits2, flat_logits4)
    flat_distances2 = Reshape (distances2, flat)
    flat_distances4 = Reshape (distances4, flat)
    all_distances = Concat <axis: int = 2> (flat_distances2, flat_distances4)
    exponentials = Exp (all_distances)
    in_pixels = Mul (exponentials, strides)
    left_top, right_bottom = Split <axis: int = 1, num_outputs: int = 2> (in_pixels)
    minima = Sub (priors, left_top)
    maxima = Add (priors, right_bottom)
    corners = Concat <axis: int = 1> (minima, maxima)
    all_boxes = Transpose <perm: ints = [0, 2, 1]> (corners)

    best = ReduceMax <keepdims: int = 0> (all_logits, class_axis)
    best_class = ArgMax <axis: int = 1, keepdims: int = 0> (all_logits)
    top, indices = TopK <axis: int = 1> (best, num_candidates)
    twice = Mul (top, one_half)
    sigmoids = Sigmoid (twice)
    scores = Identity (sigmoids)
    top_class = GatherElements <axis: int = 1> (best_class, indices)
    labels = Cast <to: int = 6> (top_class)
    index_column = Unsqueeze (indices, last_axis)
    index_rows = Expand (index_column, four)
    boxes = GatherElements <axis: int = 1> (all_boxes, index_rows)
}
"""


def detector_graph() -> ModelProto:
    """uint8 images [N, 32, 32, 3] -> boxes, scores, labels of 20 candidates, and mask features."""
    model = onnx.parser.parse_model(_TEXT)
    for name, value in {**_weights(), **_constants()}.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    for position, node in enumerate(model.graph.node):
        node.name = f"n{position}_{node.output[0]}"
    return model


def exposed(model: ModelProto, name: str, element_type: int, shape: list[int | str]) -> ModelProto:
    """A copy of `model` that gives the tensor `name` as a further output."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_tensor_value_info(name, element_type, shape))
    return copy


def _weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(7)
    weights = {}
    for name, shape in CONVOLUTIONS.items():
        spread = 1 / np.sqrt(np.prod(shape[1:]))
        weights[f"{name}_weight"] = rng.normal(0, spread, shape).astype(np.float32)
        weights[f"{name}_bias"] = rng.normal(0, 0.1, shape[:1]).astype(np.float32)
    return weights


def _constants() -> dict[str, NDArray[np.generic]]:
    def channels(*values: float) -> NDArray[np.float32]:
        return np.array(values, np.float32).reshape(1, 3, 1, 1)

    def prior_points(size: int, stride: int) -> NDArray[np.float32]:
        y, x = np.mgrid[:size, :size].reshape(2, -1) * stride
        return np.stack([x, y]).astype(np.float32)

    return {
        "mean": channels(103.53, 116.28, 123.675),
        "inverse_std": 1 / channels(57.375, 57.12, 58.395),
        "one_half": np.array(0.5, np.float32),
        "roi": np.array([], np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "spatial_axes": np.array([2, 3]),
        "class_axis": np.array([1]),
        "last_axis": np.array([-1]),
        "flat": np.array([0, 0, -1]),
        "four": np.array([1, 1, 4]),
        "num_candidates": np.array([NUM_CANDIDATES]),
        "strides": np.repeat(np.array([2, 4], np.float32), [256, 64]),
        "priors": np.concatenate([prior_points(16, 2), prior_points(8, 4)], axis=1)[None],
    }
