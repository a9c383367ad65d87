"""ONNX operator -> the kernels it costs. Every operator that `graph.read` knows stands in `READERS`."""

import math
from collections.abc import Callable

import onnx

from .kernel import Kernel
from .optimised import Graph

Reader = Callable[[onnx.NodeProto, Graph], list[Kernel]]

_DTYPES = {"float": "fp32", "double": "fp32", "float16": "fp16", "bfloat16": "fp16",
           "uint8": "int8", "int8": "int8"}
_NBITS = {2: "int4", 4: "int4", 8: "int8"}  # by the narrowest format a profile speaks of


def convolution(data: int = 0, weight: int = 1) -> Reader:
    """Inputs `data` (1, c_in, ...) and `weight` (c_out, c_in / groups, kernel...)."""

    def read(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
        shape = graph.shape(node.input[weight], node)
        groups = _integer(node, "group", 1)
        c_in, c_out = shape[1] * groups, shape[0]
        out = graph.elements(node.output[0], node)
        residual = [n for n in node.input[weight + 2:] if node.op_type == "FusedConv" and n]
        read_in = sum(graph.elements(n, node) for n in (node.input[data], *residual))
        return [Kernel(_kind(groups, c_in, shape[2:]), out * math.prod(shape[1:]), math.prod(shape),
                       read_in, out, c_in, c_out, max(shape[2:], default=1), groups,
                       _dtype(node.input[data], graph))]

    return read


def transposed_convolution(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
    """Weight (c_in, c_out / groups, kernel...): each input element meets all of its row."""
    shape = graph.shape(node.input[1], node)
    groups = _integer(node, "group", 1)
    elements = graph.elements(node.input[0], node)
    return [Kernel(_kind(groups, shape[0], shape[2:]), elements * math.prod(shape[1:]),
                   math.prod(shape), elements, graph.elements(node.output[0], node), shape[0],
                   shape[1] * groups, max(shape[2:], default=1), groups, _dtype(node.input[0], graph))]


def product(left: int = 0, right: int = 1) -> Reader:
    """(..., rows, k) x (..., k, columns): fc for one row of activations and constant weights, else mm."""

    def read(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
        a, b = node.input[left], node.input[right]
        a_shape, b_shape = graph.shape(a, node), graph.shape(b, node)
        inner = a_shape[-2] if _integer(node, "transA") and len(a_shape) > 1 else a_shape[-1]
        out = graph.elements(node.output[0], node)
        columns = math.prod(b_shape[-2:]) // inner if len(b_shape) > 1 else 1
        fixed = b in graph.constants or a in graph.constants
        weights = sum(graph.elements(n, node) for n in (a, b) if n in graph.constants)
        moved = sum(graph.elements(n, node) for n in (a, b) if n not in graph.constants)
        groups = 1 if fixed else math.prod(b_shape[:-2])
        return [Kernel(_product_kind(fixed, out, columns), out * inner, weights, moved, out, inner, columns,
                       1, groups, _dtype(a, graph, right=b))]

    return read


def packed_product(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
    """MatMulNBits: the weight is packed, its real shape is in the attributes."""
    inner, columns = (_integer(node, name) for name in ("K", "N"))
    out, read_in = (graph.elements(name, node) for name in (node.output[0], node.input[0]))
    dtype = _NBITS.get(_integer(node, "bits", 4), "int8")
    return [Kernel(_product_kind(True, out, columns), out * inner, inner * columns, read_in, out,
                   inner, columns, 1, 1, dtype)]


def einsum(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
    """A multiply-add for each combination of indices."""
    equation = next(a.s for a in node.attribute if a.name == "equation").decode().replace(" ", "")
    sizes: dict[str, int] = {}
    for letters, name in zip(equation.partition("->")[0].split(","), node.input, strict=True):
        shape = graph.shape(name, node)
        if "." in letters or len(letters) != len(shape):
            return unknown(node, graph)
        sizes.update(zip(letters, shape, strict=True))
    moved = sum(graph.elements(n, node) for n in node.input if n not in graph.constants)
    weights = sum(graph.elements(n, node) for n in node.input if n in graph.constants)
    out, macs = graph.elements(node.output[0], node), math.prod(sizes.values())
    return [Kernel("mm", macs, weights, moved, out, max(1, macs // out), 1, 1, 1,
                   _dtype(node.output[0], graph))]


def attention(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
    """com.microsoft.Attention: (1, tokens, width) through its weight (width, 3 width), then q k v."""
    if node.domain != "com.microsoft":
        return many_heads(node, graph)  # ONNX's own operator of that name takes q, k and v
    tokens, width = graph.shape(node.input[0], node)[-2:]
    shape = graph.shape(node.input[1], node)
    elements, dtype = graph.elements(node.output[0], node), _dtype(node.input[0], graph)
    return [Kernel("mm", tokens * math.prod(shape), math.prod(shape), tokens * width, tokens * shape[1],
                   width, shape[1], 1, 1, dtype),
            _scores(tokens, tokens, shape[1] // 3, tokens * shape[1], elements, dtype)]


def many_heads(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
    """Query, key and value (1, tokens, width) or (1, heads, tokens, width) come ready."""
    names = [n for n in node.input[:3] if n]
    shapes = [graph.shape(n, node) for n in names]
    if len(shapes) < 3 or any(len(shape) not in (3, 4) for shape in shapes):
        return unknown(node, graph)  # packed, or with a cache of its own layout
    queries, keys = shapes[0][-2], shapes[1][-2]
    return [_scores(queries, keys, math.prod(shapes[0]) // queries, sum(map(math.prod, shapes)),
                    graph.elements(node.output[0], node), _dtype(node.input[0], graph))]


def recurrent(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
    """LSTM, GRU, RNN: X (steps, 1, c_in) meets W and R, (directions, ...), once a step."""
    x = graph.shape(node.input[0], node)
    steps = x[1] if _integer(node, "layout") else x[0]
    weights = sum(graph.elements(name, node) for name in node.input[1:3])
    out = sum(graph.elements(name, node) for name in node.output if name)
    return [Kernel("fc", steps * weights, weights, math.prod(x), out, x[-1],
                   _integer(node, "hidden_size", 1), 1, 1, _dtype(node.input[1], graph))]


def passing(op: str) -> Reader:
    """Elements in, elements out, no products: elt and pool."""

    def read(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
        moved = sum(graph.elements(n, node) for n in node.input if n in graph.shapes and _is_data(n, graph))
        return [Kernel(op, 0, 0, moved, _out(node, graph), 1, 1, 1, 1, _dtype(node.output[0], graph))]

    return read


def moving(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
    """Reads what it writes: of a Gather or a Slice, not the whole source."""
    out = _out(node, graph)
    return [Kernel("data", 0, 0, out, out, 1, 1, 1, 1, _dtype(node.output[0], graph))]


def crossing(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
    out = graph.elements(node.output[0], node)
    return [Kernel("quant", 0, 0, out, out, 1, 1, 1, 1, "int8")]


def free(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
    """A view, or known before the first inference."""
    return []


def unknown(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
    raise NotImplementedError


def _kind(groups: int, c_in: int, kernel: tuple[int, ...]) -> str:
    if groups > 1:
        return "dw" if groups == c_in else "gconv"
    return "pw" if all(k == 1 for k in kernel) else "conv"


def _product_kind(fixed: bool, out: int, columns: int) -> str:
    """A single row waits for its weights; several share them."""
    return "fc" if fixed and out <= columns else "mm"


def _scores(queries: int, keys: int, width: int, read: int, out: int, dtype: str) -> Kernel:
    """Both products of attention as one kernel."""
    return Kernel("mm", 2 * queries * keys * width, 0, read, out, width, keys, 1, 1, dtype)


def _integer(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _dtype(name: str, graph: Graph, right: str = "") -> str:
    """Of the arithmetic: a product of a float and an 8-bit operand is done in 8 bits."""
    found = {_DTYPES.get(graph.types.get(n, "float"), "fp32") for n in (name, right) if n}
    return "int8" if "int8" in found else found.pop()


def _is_data(name: str, graph: Graph) -> bool:
    """Not a scale, a zero point, a list of axes."""
    fixed = name in graph.constants
    return not fixed or (math.prod(graph.shapes[name]) > 1 and graph.types[name] != "int64")


def _out(node: onnx.NodeProto, graph: Graph) -> int:
    return sum(graph.elements(name, node) for name in node.output if name)


def _table() -> dict[str, Reader]:
    elt, pool = passing("elt"), passing("pool")
    return {
        **dict.fromkeys(("Conv", "FusedConv", "ConvInteger", "NhwcFusedConv"), convolution()),
        "QLinearConv": convolution(0, 3),
        "ConvTranspose": transposed_convolution,
        **dict.fromkeys(("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "TransposeMatMul", "MatMulInteger",
                         "MatMulIntegerToFloat", "DynamicQuantizeMatMul"), product()),
        **dict.fromkeys(("QGemm", "QLinearMatMul"), product(0, 3)),
        "MatMulNBits": packed_product,
        "Einsum": einsum,
        "Attention": attention,
        "MultiHeadAttention": many_heads,
        **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), recurrent),
        **dict.fromkeys(_ELEMENTWISE.split(), elt),
        **dict.fromkeys(_POOLING.split(), pool),
        **dict.fromkeys(_MOVING.split(), moving),
        **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"), crossing),
        **dict.fromkeys(_FREE.split(), free),
    }


_ELEMENTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BatchNormalization BiasAdd BiasGelu BiasSoftmax
    BiasSplitGelu BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Celu Clip Cos Cosh CumSum Div
    Elu EmbedLayerNormalization Equal Erf Exp FastGelu Floor FusedElementwise Gelu Greater GreaterOrEqual
    GroupNorm GroupNormalization HardSigmoid HardSwish Hardmax InstanceNormalization IsInf IsNaN LRN
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization Max
    MeanVarianceNormalization Min Mish Mod Mul Neg Not Or PRelu Pow QLinearAdd QLinearLeakyRelu QLinearMul
    QLinearSigmoid QLinearSoftmax QLinearWhere QuickGelu RMSNormalization Reciprocal Relu RotaryEmbedding
    Round Selu Shrink Sigmoid Sign SimplifiedLayerNormalization Sin Sinh SkipLayerNormalization
    SkipSimplifiedLayerNormalization Softmax Softplus Softsign Sqrt Sub Sum Swish Tan Tanh
    ThresholdedRelu Where Xor
"""
_POOLING = """
    ArgMax ArgMin AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool Mean
    QLinearAveragePool QLinearGlobalAveragePool QLinearReduceMean ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare TopK
"""
_MOVING = """
    CenterCropPad Col2Im Compress Concat ConstantOfShape DepthToSpace Expand EyeLike Gather GatherElements
    GatherND GridSample MaxRoiPool MaxUnpool OneHot Pad QLinearConcat Range Resize ReverseSequence RoiAlign
    ScatterElements ScatterND Slice SpaceToDepth Split Tile Transpose Trilu Upsample
"""
_FREE = "Cast CastLike Constant Dropout Flatten Identity Reshape Shape Size Squeeze Unsqueeze"

READERS = _table()
