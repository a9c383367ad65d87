"""Windows that slide over (y, x): padding, and pooling."""

import numpy as np
from onnx import NodeProto

from .plan import TO_NHWC, Plan, attributes, axis_here, no_counterpart
from .quantized import Constant

LOWEST = -128


def same_or_valid(node: NodeProto, plan: Plan, kernel: tuple[int, ...], pad_with_lowest: bool = False
                  ) -> tuple[str, str]:
    """The input and TFLite's name for its padding; a PAD goes before where TFLite has no name for it."""
    source, pads = plan.activation(node.input[0]), _pads(node, plan, kernel)
    if not any(pads):
        return source, "VALID"
    if pads == _same(node, plan, kernel):
        return source, "SAME"
    return _padded(plan, source, node.output[0], pads, pad_with_lowest), "VALID"


def _pads(node: NodeProto, plan: Plan, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """(top, left, bottom, right)."""
    options = attributes(node)
    automatic = options.get("auto_pad", b"NOTSET")
    if automatic == b"SAME_UPPER":
        return _same(node, plan, kernel)
    if automatic == b"SAME_LOWER":
        raise no_counterpart(node, "padding SAME_LOWER")
    return tuple(options.get("pads", (0, 0, 0, 0))) if automatic == b"NOTSET" else (0, 0, 0, 0)


def _same(node: NodeProto, plan: Plan, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """What TFLite means by SAME: as much as makes the output input / stride, the odd row at the end."""
    options, sizes = attributes(node), plan.shape(node.input[0])[2:]
    strides, dilations = options.get("strides", (1, 1)), options.get("dilations", (1, 1))
    total = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
             for n, s, k, d in zip(sizes, strides, kernel, dilations, strict=True)]
    before = [t // 2 for t in total]
    return (*before, *(t - b for t, b in zip(total, before, strict=True)))


def _padded(plan: Plan, source: str, output: str, pads: tuple[int, ...], with_lowest: bool) -> str:
    """`source` inside a margin of zeros, or of the lowest value there is."""
    top, left, bottom, right = pads
    tensor, scale = plan.tensors[source], plan.scale(source)
    n, y, x, c = tensor.shape
    name = plan.declare(f"{output}/padded", (n, y + top + bottom, x + left + right, c), scale)
    margins = plan.integers(f"{output}/pads", [[0, 0], [top, bottom], [left, right], [0, 0]])
    if with_lowest and tensor.zero_point != LOWEST:
        value = Constant(np.array([LOWEST], np.int8), np.array(tensor.scales, np.float32), tensor.zero_point)
        lowest = plan.constant(f"{output}/lowest", value.values, value)
        plan.emit("PADV2", [source, margins, lowest], name)
    else:
        plan.emit("PAD", [source, margins], name)
    return name


def max_pool(node: NodeProto, plan: Plan) -> None:
    _pool(node, plan, "MAX_POOL_2D", lowest=True)


def average_pool(node: NodeProto, plan: Plan) -> None:
    """TFLite leaves the margin out of the mean where it pads itself, and counts it in after a PAD."""
    options = attributes(node)
    kernel = tuple(options["kernel_shape"])
    pads, counted = _pads(node, plan, kernel), options.get("count_include_pad", 0)
    if any(pads) and bool(counted) == (pads == _same(node, plan, kernel)):
        raise no_counterpart(node, f"with padding {pads}")
    _pool(node, plan, "AVERAGE_POOL_2D", lowest=False)


def _pool(node: NodeProto, plan: Plan, code: str, lowest: bool) -> None:
    options = attributes(node)
    kernel, strides = tuple(options["kernel_shape"]), options.get("strides", (1, 1))
    if len(kernel) != 2 or set(options.get("dilations", (1, 1))) != {1}:
        raise no_counterpart(node, "with dilation, or not over (y, x),")
    source, padding = same_or_valid(node, plan, kernel, lowest)
    _check_size(node, plan, source, padding, kernel, strides)
    plan.emit_at(plan.scale(node.input[0]), code, [source], node.output[0], padding=padding,
                 strideH=strides[0], strideW=strides[1], filterHeight=kernel[0], filterWidth=kernel[1])


def _check_size(node: NodeProto, plan: Plan, source: str, padding: str, kernel: tuple[int, ...],
                strides: tuple[int, ...]) -> None:
    """ONNX may round the size up (`ceil_mode`); TFLite never does."""
    sizes = plan.tensors[source].shape[1:3]
    got = tuple(-(-n // s) if padding == "SAME" else (n - k) // s + 1
                for n, s, k in zip(sizes, strides, kernel, strict=True))
    if got != plan.shape(node.output[0])[2:]:
        raise no_counterpart(node, "with a size rounded up")


def global_average(node: NodeProto, plan: Plan) -> None:
    _mean(node, plan, (2, 3), keep=True)


def reduce_mean(node: NodeProto, plan: Plan) -> None:
    options, stored = attributes(node), plan.stored(node, 1)
    everything = tuple(range(len(plan.shape(node.input[0]))))
    axes = tuple(options.get("axes", everything)) if stored is None else tuple(map(int, stored.reshape(-1)))
    _mean(node, plan, axes, bool(options.get("keepdims", 1)))


def _mean(node: NodeProto, plan: Plan, axes: tuple[int, ...], keep: bool) -> None:
    source, output = plan.activation(node.input[0]), plan.activation(node.output[0])
    rank = len(plan.shape(node.input[0]))
    there = sorted(axis_here(axis, rank) for axis in axes)
    left = [TO_NHWC[i] for i in range(rank) if i not in there] if rank == 4 else []
    if not keep and left != sorted(left):
        raise no_counterpart(node, f"over axes {axes}")
    plan.emit("MEAN", [source, plan.integers(f"{output}/axes", there)], output, keepDims=keep)


def pad(node: NodeProto, plan: Plan) -> None:
    """Zeros around (y, x) of a map."""
    stored, value = plan.stored(node, 1), plan.stored(node, 2)
    pads = [] if stored is None else [int(margin) for margin in stored]
    zero = value is None or not value.any()
    plain = attributes(node).get("mode", b"constant") == b"constant" and zero and len(node.input) < 4
    if not plain or len(pads) != 8 or min(pads) < 0 or any(pads[i] for i in (0, 1, 4, 5)):
        raise no_counterpart(node, "other than zeros around (y, x)")
    source = plan.activation(node.input[0])
    padded = _padded(plan, source, node.output[0], (pads[2], pads[3], pads[6], pads[7]), False)
    plan.activation(node.output[0])
    if plan.scale(node.output[0]) == plan.scale(node.input[0]):
        plan.ops[-1].outputs = [node.output[0]]
    else:
        plan.emit("QUANTIZE", [padded], node.output[0])


def resize(node: NodeProto, plan: Plan) -> None:
    options = attributes(node)
    mode = options.get("mode", b"nearest")
    where = options.get("coordinate_transformation_mode", b"half_pixel")
    code = {b"nearest": "RESIZE_NEAREST_NEIGHBOR", b"linear": "RESIZE_BILINEAR"}.get(mode)
    known = where in (b"asymmetric", b"half_pixel", b"align_corners")
    floors = mode != b"nearest" or (where == b"asymmetric" and options.get("nearest_mode") == b"floor")
    if code is None or not known or not floors or len(plan.shape(node.output[0])) != 4:
        raise no_counterpart(node, f"of mode {mode.decode()}, {where.decode()}")
    size = plan.integers(f"{node.output[0]}/size", plan.shape(node.output[0])[2:])
    plan.emit_at(plan.scale(node.input[0]), code, [plan.activation(node.input[0]), size], node.output[0],
                 alignCorners=where == b"align_corners", halfPixelCenters=where == b"half_pixel")
