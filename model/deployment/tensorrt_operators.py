"""What TensorRT's ONNX parser takes: facts from its documents, as tables.

Operators and element types: the table `docs/operators.md` of github.com/onnx/onnx-tensorrt as of
10.15 (opsets 9 to 24). 11.0 adds Swish and 11.2 DFT (release notes): neither is listed, since a
graph has to build on 10.x and 11.x. TopK: the operators' reference (K <= 3840 and no more than
there are entries, one of the last four axes) and NVIDIA/TensorRT#4390. Rank:
`nvinfer1::Dims::MAX_DIMS`. int64 has been a type of TensorRT's own since 9.0 and needs no care.
"""

from collections.abc import Mapping

from onnx import TensorProto

OPSETS = range(9, 25)
MAX_TOPK = 3840
#: TopK, and ArgMax and ArgMin that are built on it, work along one of that many last axes.
TOPK_AXES = 4
MAX_RANK = 8

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_FLOATS_NO_BF16 = _FLOATS - {TensorProto.BFLOAT16}
_NUMBERS = _FLOATS | {TensorProto.INT32, TensorProto.INT64}
_ANY = _NUMBERS | {TensorProto.BOOL}
_FP8 = frozenset({TensorProto.FLOAT8E4M3FN})
_FOUR_BITS = frozenset({TensorProto.INT4, TensorProto.FLOAT4E2M1})

#: Element types of the data of every operator that the parser takes.
OPERATORS: Mapping[str, frozenset[int]] = {
    **dict.fromkeys(
        (
            *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "AveragePool"),
            *("BatchNormalization", "Ceil", "Celu", "Clip", "Conv", "ConvTranspose", "Cos", "Cosh"),
            *("CumSum", "Dropout", "Einsum", "Elu", "Erf", "Exp", "Floor", "GRU", "Gemm"),
            *("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GroupNormalization"),
            *("HardSigmoid", "HardSwish", "Hardmax", "ImageScaler", "InstanceNormalization"),
            *("IsInf", "LRN", "LSTM", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax"),
            *("LpNormalization", "LpPool", "MatMul", "MaxPool", "MeanVarianceNormalization"),
            *("PRelu", "ParametricSoftplus", "QuantizeLinear", "RMSNormalization", "RNN"),
            *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
            *("Reciprocal", "Resize", "RotaryEmbedding", "Round", "ScaledTanh", "Scan", "Selu"),
            *("Sigmoid", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh"),
            *("ThresholdedRelu", "Upsample"),
        ),
        _FLOATS,
    ),
    **dict.fromkeys(
        (
            *("BlackmanWindow", "DeformConv", "GridSample", "HammingWindow", "HannWindow"),
            *("Mish", "NonMaxSuppression", "NonZero", "RoiAlign"),
        ),
        _FLOATS_NO_BF16,
    ),
    **dict.fromkeys(
        (
            *("Abs", "Add", "ArgMax", "ArgMin", "DepthToSpace", "Div", "Equal", "Greater"),
            *("GreaterOrEqual", "IsNaN", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg"),
            *("Pad", "Pow", "Range", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
            *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"),
            *("ReduceSumSquare", "Relu", "Scatter", "ScatterElements", "ScatterND", "Shrink"),
            *("Sign", "SpaceToDepth", "Sub", "Sum", "TopK"),
        ),
        _NUMBERS,
    ),
    **dict.fromkeys(
        (
            *("Concat", "Expand", "EyeLike", "Flatten", "Gather", "GatherElements", "GatherND"),
            *("Identity", "If", "Loop", "OneHot", "Reshape", "ReverseSequence", "Shape", "Size"),
            *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where"),
        ),
        _ANY,
    ),
    **dict.fromkeys(("And", "Not", "Or", "Xor"), frozenset({TensorProto.BOOL})),
    **dict.fromkeys(("Cast", "CastLike"), _ANY | {TensorProto.UINT8}),
    **dict.fromkeys(("Constant", "ConstantOfShape"), _ANY | _FP8 | _FOUR_BITS),
    "Attention": _FLOATS | _FP8 | {TensorProto.INT8},
    "DequantizeLinear": _FP8 | _FOUR_BITS | {TensorProto.INT8},
    "Gelu": _NUMBERS | {TensorProto.INT8},
    "Mean": _NUMBERS | _FP8,
    "STFT": frozenset({TensorProto.FLOAT}),
    "TensorScatter": _FLOATS | {TensorProto.INT32},
}

_REDUCTIONS = tuple(name for name in OPERATORS if name.startswith("Reduce"))
DATA_DEPENDENT = frozenset({"NonMaxSuppression", "NonZero"})
# Their data has the type of the output, whatever they read.
TYPED_BY_OUTPUT = frozenset(
    {"BlackmanWindow", "Cast", "ConstantOfShape", "EyeLike", "HammingWindow", "HannWindow"}
)
#: Inputs by position that give the shape of the output.
SHAPE_INPUTS: Mapping[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1,),
    "Upsample": (1,),
}
#: Inputs by position, with their names, that must stand in the graph as constants.
CONSTANT_INPUTS: Mapping[str, tuple[int, str]] = {
    **dict.fromkeys(_REDUCTIONS, (1, "axes")),
    "CumSum": (1, "axis"),
    "OneHot": (1, "depth"),
    "Squeeze": (1, "axes"),
    "TopK": (1, "K"),
    "Unsqueeze": (1, "axes"),
}

#: What the attributes of Resize may be; an attribute that is left out is always fine.
RESIZE_CHOICES: Mapping[str, tuple[str | int, ...]] = {
    "mode": ("nearest", "linear"),
    "coordinate_transformation_mode": (
        "half_pixel",
        "pytorch_half_pixel",
        "tf_half_pixel_for_nn",
        "asymmetric",
        "align_corners",
    ),
    "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
    "keep_aspect_ratio_policy": ("stretch",),
    "antialias": (0,),
}
