"""Operators with weights: convolutions and matrix products."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from ...errors import ExportError
from .plan import Plan, attributes, called, no_counterpart
from .quantized import Constant
from .window import same_or_valid

INT32 = np.iinfo(np.int32)


def conv(node: NodeProto, plan: Plan) -> None:
    """CONV_2D, DEPTHWISE_CONV_2D, or one CONV_2D a group: NPU compilers take no grouped one."""
    weight = _weight(node, plan)  # (out, in / groups, ky, kx)
    if weight.values.ndim != 4:
        raise no_counterpart(node, f"of rank {weight.values.ndim}")
    groups, channels = attributes(node).get("group", 1), plan.shape(node.input[0])[1]
    bias = _bias(node, plan, weight, 2)
    if groups == 1:
        _dense(node, plan, weight, bias)
    elif groups == channels:
        _depthwise(node, plan, weight, bias)
    else:
        _grouped(node, plan, weight, bias, groups)


def _dense(node: NodeProto, plan: Plan, weight: Constant, bias: NDArray[np.int32]) -> None:
    source, options = _window(node, plan, weight)
    _convolve(plan, source, node.output[0], weight, bias, options)
    plan.activation(node.output[0])


def _convolve(plan: Plan, source: str, output: str, weight: Constant, bias: NDArray[np.int32],
              options: dict[str, Any]) -> None:
    filters = plan.constant(f"{output}/weight", weight.values.transpose(0, 2, 3, 1), weight)
    added = _stored_bias(plan, source, output, weight, bias)
    plan.emit("CONV_2D", [source, filters, added], output, **options)


def _depthwise(node: NodeProto, plan: Plan, weight: Constant, bias: NDArray[np.int32]) -> None:
    source, options = _window(node, plan, weight)
    output = plan.activation(node.output[0])
    values = weight.values.transpose(1, 2, 3, 0)  # (1, ky, kx, out)
    filters = plan.constant(f"{output}/weight", values, weight, axis=3)
    multiplier = values.shape[3] // plan.shape(node.input[0])[1]
    added = _stored_bias(plan, source, output, weight, bias)
    plan.emit("DEPTHWISE_CONV_2D", [source, filters, added], output, depthMultiplier=multiplier, **options)


def _grouped(node: NodeProto, plan: Plan, weight: Constant, bias: NDArray[np.int32], groups: int) -> None:
    source, options = _window(node, plan, weight)
    output = plan.activation(node.output[0])
    ins, outs = plan.tensors[source].shape, plan.tensors[output].shape
    parts = [plan.declare(f"{output}/in{i}", (*ins[:3], ins[3] // groups), plan.scale(node.input[0]))
             for i in range(groups)]
    results = [plan.declare(f"{output}/out{i}", (*outs[:3], outs[3] // groups), plan.scale(output))
               for i in range(groups)]
    plan.emit("SPLIT", [plan.integers(f"{output}/axis", 3), source], "", numSplits=groups).outputs = parts
    for i, (part, result) in enumerate(zip(parts, results, strict=True)):
        rows = np.array_split(np.arange(len(weight.values)), groups)[i]
        scales = weight.scales[rows] if weight.scales.size > 1 else weight.scales
        _convolve(plan, part, result, Constant(weight.values[rows], scales), bias[rows], options)
    plan.emit("CONCATENATION", results, output, axis=3)


def _window(node: NodeProto, plan: Plan, weight: Constant) -> tuple[str, dict[str, Any]]:
    """The input, padded if need be, and the options of the window."""
    options = attributes(node)
    strides, dilations = options.get("strides", (1, 1)), options.get("dilations", (1, 1))
    source, padding = same_or_valid(node, plan, weight.values.shape[2:])
    return source, {"padding": padding, "strideH": strides[0], "strideW": strides[1],
                    "dilationHFactor": dilations[0], "dilationWFactor": dilations[1]}


def matmul(node: NodeProto, plan: Plan) -> None:
    """FULLY_CONNECTED over the last axis."""
    weight = _weight(node, plan)  # (in, out)
    _fully_connected(node, plan, _transposed(weight), np.zeros(weight.values.shape[-1], np.int32))


def gemm(node: NodeProto, plan: Plan) -> None:
    options = attributes(node)
    plain = options.get("alpha", 1.0) == options.get("beta", 1.0) == 1.0
    if options.get("transA") or not plain:
        raise no_counterpart(node, "with alpha, beta or transA")
    weight = _weight(node, plan)
    weight = weight if options.get("transB") else _transposed(weight)  # (out, in)
    _fully_connected(node, plan, weight, _bias(node, plan, weight, 2))


def _fully_connected(node: NodeProto, plan: Plan, weight: Constant, bias: NDArray[np.int32]) -> None:
    rank = len(plan.shape(node.input[0]))
    if weight.values.ndim != 2 or rank == 4:
        raise no_counterpart(node, f"of rank {rank}")
    source, output = plan.activation(node.input[0]), plan.activation(node.output[0])
    values = weight.values
    if order := plan.flattened.get(node.input[0]):  # its columns are (channels, y, x) in ONNX
        values = values.reshape(-1, *order).transpose(0, 2, 3, 1).reshape(values.shape)
    matrix = plan.constant(f"{output}/weight", values, weight)
    added = _stored_bias(plan, source, output, weight, bias)
    plan.emit("FULLY_CONNECTED", [source, matrix, added], output, keepNumDims=rank > 2)


def _transposed(weight: Constant) -> Constant:
    return Constant(weight.values.T, weight.scales, weight.zero_point, 1 - weight.axis)


def _weight(node: NodeProto, plan: Plan) -> Constant:
    """The int8 weight. Raises ExportError: float, not constant, not symmetric."""
    weight = plan.graph.constants.get(node.input[1])
    if weight is None:
        raise no_counterpart(node, "without constant weights")
    if weight.values.dtype != np.int8:
        raise ExportError(f"the file is not int8: {called(node)} has {weight.values.dtype} weights")
    if weight.zero_point:
        raise ExportError(f"{called(node)} has asymmetric weights; TFLite's are symmetric")
    return weight


def _bias(node: NodeProto, plan: Plan, weight: Constant, at: int) -> NDArray[np.int32]:
    """(out,), in units of input scale x weight scale, which is how both runtimes add it."""
    outs = len(weight.values)
    if len(node.input) <= at or not node.input[at]:
        return np.zeros(outs, np.int32)
    if node.input[at] not in plan.graph.constants:
        raise no_counterpart(node, "with a computed bias")
    real = plan.graph.constants[node.input[at]].real
    unit = plan.scale(node.input[0]).scale * weight.scales.astype(np.float64)
    whole = np.rint(np.broadcast_to(real.reshape(-1), outs) / unit)
    return np.asarray(np.clip(whole, INT32.min, INT32.max), np.int32)


def _stored_bias(plan: Plan, source: str, output: str, weight: Constant, bias: NDArray[np.int32]) -> str:
    scales = np.float32(plan.tensors[source].scales[0]) * weight.scales
    return plan.constant(f"{output}/bias", bias, Constant(bias, scales))
