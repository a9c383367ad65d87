"""The operators that the writer knows: ONNX operator -> function that appends it to the plan."""

from collections.abc import Callable
from math import inf

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from ...errors import ExportError
from .plan import TO_NCHW, TO_NHWC, Plan, attributes, axis_here, called, here, layout_matters, no_counterpart
from .quantized import Constant, Scale
from .weighted import conv, gemm, matmul
from .window import average_pool, global_average, max_pool, pad, reduce_mean, resize

# What TFLite's int8 kernels write these in, whatever the file says (quantization spec of LiteRT).
PROBABILITY, SIGNED = Scale(1 / 256, -128), Scale(1 / 128, 0)
CLAMPS = {(-inf, inf): "", (0.0, inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}
READS_FLAT = {"Gemm", "MatMul"}


def _elementwise(code: str) -> Callable[[NodeProto, Plan], None]:
    def append(node: NodeProto, plan: Plan) -> None:
        ranks = {len(plan.shape(name)) for name in node.input if name not in plan.graph.constants}
        rank = len(plan.shape(node.output[0]))
        if ranks != {rank}:
            raise no_counterpart(node, f"of ranks {sorted(ranks)}")
        inputs = [_operand(node, plan, name, rank) for name in node.input]
        plan.emit(code, inputs, plan.activation(node.output[0]))

    return append


def _operand(node: NodeProto, plan: Plan, name: str, rank: int) -> str:
    if name not in plan.graph.constants:
        return plan.activation(name)
    constant = plan.graph.constants[name]
    if constant.values.dtype != np.int8 or constant.scales.size != 1:
        raise ExportError(f"the file is not int8: {called(node)} reads {name!r} as {constant.values.dtype}")
    values = constant.values.reshape((1,) * (rank - constant.values.ndim) + constant.values.shape)
    return plan.constant(f"{name}/{rank}d", values.transpose(TO_NHWC) if rank == 4 else values, constant)


def _relu(node: NodeProto, plan: Plan) -> None:
    _clamp(node, plan, 0.0, inf)


def _clip(node: NodeProto, plan: Plan) -> None:
    options = attributes(node)
    bounds = [options.get("min", -inf), options.get("max", inf)]
    for i in range(2):
        stored = plan.stored(node, i + 1)
        bounds[i] = bounds[i] if stored is None else float(stored.reshape(()))
    _clamp(node, plan, bounds[0], bounds[1])


def _clamp(node: NodeProto, plan: Plan, low: float, high: float) -> None:
    """As part of the operator before where that can be; nothing where the scale itself cuts off there."""
    function = _clamp_name(plan.scale(node.output[0]), low, high)
    if function is None:
        raise no_counterpart(node, f"to {low:g}..{high:g}")
    if not plan.clamped(node.input[0], node.output[0], function):
        source, output = plan.activation(node.input[0]), plan.activation(node.output[0])
        plan.emit(function or "QUANTIZE", [source], output)


def _clamp_name(scale: Scale, low: float, high: float) -> str | None:
    """The first clamp that leaves the same 8-bit values of that scale."""

    def reached(bounds: tuple[float, float]) -> tuple[float, ...]:
        return tuple(np.clip(np.rint(np.array(bounds) / scale.scale) + scale.zero_point, -128, 127))

    return next((name for bounds, name in CLAMPS.items() if reached(bounds) == reached((low, high))), None)


def _fixed(code: str, scale: Scale) -> Callable[[NodeProto, Plan], None]:
    return lambda node, plan: plan.emit_at(scale, code, [plan.activation(node.input[0])], node.output[0])


def _softmax(node: NodeProto, plan: Plan) -> None:
    rank = len(plan.shape(node.input[0]))
    if axis_here(attributes(node).get("axis", -1), rank) != rank - 1:
        raise no_counterpart(node, "over an axis that is not the channels")
    plan.emit_at(PROBABILITY, "SOFTMAX", [plan.activation(node.input[0])], node.output[0], beta=1.0)


def _hard_swish(node: NodeProto, plan: Plan) -> None:
    plan.emit("HARD_SWISH", [plan.activation(node.input[0])], plan.activation(node.output[0]))


def _hard_sigmoid(node: NodeProto, plan: Plan) -> None:
    """min(max(x + 3, 0), 6) / 6, in two steps: the first in the scale of the result, six times as large."""
    options, output = attributes(node), node.output[0]
    if abs(options.get("alpha", 0.2) - 1 / 6) > 1e-6 or options.get("beta", 0.5) != 0.5:
        raise no_counterpart(node, "with alpha other than 1/6")
    scale, shape = plan.scale(output), here(plan.shape(output))
    three = plan.constant(f"{output}/three", *_single(3.0, len(shape)))
    sixth = plan.constant(f"{output}/sixth", *_single(1 / 6, len(shape)))
    risen = plan.declare(f"{output}/six_fold", shape, Scale(6 * scale.scale, scale.zero_point))
    plan.emit("ADD", [plan.activation(node.input[0]), three], risen, fusedActivationFunction="RELU6")
    plan.emit("MUL", [risen, sixth], plan.activation(output))


def _single(value: float, rank: int) -> tuple[NDArray[np.int8], Constant]:
    """A number as an int8 tensor that holds it exactly."""
    stored = np.full((1,) * rank, 127, np.int8)
    return stored, Constant(stored, np.array([value / 127], np.float32))


def _leaky_relu(node: NodeProto, plan: Plan) -> None:
    plan.emit("LEAKY_RELU", [plan.activation(node.input[0])], plan.activation(node.output[0]),
              alpha=attributes(node).get("alpha", 0.01))


def _quantize(node: NodeProto, plan: Plan) -> None:
    plan.graph.shapes.setdefault(node.output[0], plan.shape(node.input[0]))
    plan.emit("QUANTIZE", [plan.activation(node.input[0])], plan.activation(node.output[0]))


def _concat(node: NodeProto, plan: Plan) -> None:
    """TFLite joins only what has the scale of the result."""
    output = plan.activation(node.output[0])
    if any(name in plan.graph.constants for name in node.input):
        raise no_counterpart(node, "with a constant")
    inputs = [plan.in_scale(plan.activation(name), plan.scale(output)) for name in node.input]
    axis = axis_here(attributes(node)["axis"], len(plan.shape(output)))
    plan.emit("CONCATENATION", inputs, output, axis=axis)


def _split(node: NodeProto, plan: Plan) -> None:
    """Equal parts, all in the scale of the whole."""
    source, rank = plan.activation(node.input[0]), len(plan.shape(node.input[0]))
    parts = [name or f"{node.output[0]}/{i}" for i, name in enumerate(node.output)]
    wanted = {(plan.shape(parts[0]), plan.scale(source))}
    if {(plan.shape(name), plan.scale(name)) for name in parts} != wanted:
        raise no_counterpart(node, "into unequal parts")
    axis = plan.integers(f"{parts[0]}/axis", axis_here(attributes(node).get("axis", 0), rank))
    plan.emit("SPLIT", [axis, source], "", numSplits=len(parts)).outputs = [plan.activation(n) for n in parts]


def _transpose(node: NodeProto, plan: Plan) -> None:
    source = plan.activation(node.input[0])
    rank = len(plan.shape(source))
    order = attributes(node).get("perm", tuple(reversed(range(rank))))
    if rank == 4:
        order = [TO_NHWC.index(order[axis]) for axis in TO_NHWC]
    order_ = plan.integers(f"{node.output[0]}/order", order)
    plan.emit_at(plan.scale(source), "TRANSPOSE", [source, order_], node.output[0])


def _reshape(node: NodeProto, plan: Plan) -> None:
    """ONNX counts elements channels first: what is rearranged goes through that order and back."""
    before, after = plan.shape(node.input[0]), plan.shape(node.output[0])
    source, output, scale = plan.activation(node.input[0]), node.output[0], plan.scale(node.input[0])
    if before[:1] == after[:1] and len(after) == 2 and layout_matters(before) and _read_flat(plan, output):
        plan.flattened[output] = (before[1], before[2], before[3])
    elif layout_matters(before):
        order = plan.integers(f"{output}/from_nhwc", TO_NCHW)
        turned = plan.declare(f"{output}/nchw", before, scale)
        plan.emit("TRANSPOSE", [source, order], turned)
        source = turned
    if layout_matters(after):
        flat = plan.declare(f"{output}/nchw_out", after, scale)
        plan.emit("RESHAPE", [source, plan.integers(f"{output}/shape", after)], flat, newShape=list(after))
        plan.emit_at(scale, "TRANSPOSE", [flat, plan.integers(f"{output}/to_nhwc", TO_NHWC)], output)
    else:
        shape = here(after)
        plan.emit_at(scale, "RESHAPE", [source, plan.integers(f"{output}/shape", shape)], output,
                     newShape=list(shape))


def _read_flat(plan: Plan, name: str) -> bool:
    """Whether only matrix products with constant weights read it: their columns can be put in our order."""
    readers = [node for node in plan.graph.nodes if name in node.input]
    return bool(readers) and name not in plan.graph.outputs and all(
        node.op_type in READS_FLAT and isinstance(plan.graph.constants.get(node.input[1]), Constant)
        for node in readers)


OPERATORS: dict[str, Callable[[NodeProto, Plan], None]] = {
    "Add": _elementwise("ADD"),
    "AveragePool": average_pool,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": conv,
    "Dropout": _reshape,
    "Flatten": _reshape,
    "Gemm": gemm,
    "GlobalAveragePool": global_average,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _reshape,
    "LeakyRelu": _leaky_relu,
    "MatMul": matmul,
    "MaxPool": max_pool,
    "Mul": _elementwise("MUL"),
    "Pad": pad,
    "QuantizeLinear": _quantize,
    "ReduceMean": reduce_mean,
    "Relu": _relu,
    "Reshape": _reshape,
    "Resize": resize,
    "Sigmoid": _fixed("LOGISTIC", PROBABILITY),
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _reshape,
    "Sub": _elementwise("SUB"),
    "Tanh": _fixed("TANH", SIGNED),
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
