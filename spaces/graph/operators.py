"""ONNX operator -> what it computes, in torch. What is not in the table cannot be trained."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import GateError

Attributes = Mapping[str, Any]
Operator = Callable[..., Any]  # (attributes, *inputs) -> tensor, or a tuple of them

_TYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool,
          10: torch.float16, 11: torch.float64}


def _convolution(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    spatial = x.ndim - 2
    x = _padded(a, x, spatial)
    run = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    out: Tensor = run(x, w, b, a.get("strides", [1] * spatial), 0, a.get("dilations", [1] * spatial),
                      a.get("group", 1))
    return out


def _transposed(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    spatial = x.ndim - 2
    pads = a.get("pads", [0] * 2 * spatial)
    if pads[:spatial] != pads[spatial:]:
        raise GateError("a transposed convolution with uneven padding cannot be trained")
    run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
    out: Tensor = run(x, w, b, a.get("strides", [1] * spatial), pads[:spatial],
                      a.get("output_padding", [0] * spatial), a.get("group", 1),
                      a.get("dilations", [1] * spatial))
    return out


def _padded(a: Attributes, x: Tensor, spatial: int, value: float = 0.0) -> Tensor:
    """The input with the operator's own padding around it."""
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise GateError("auto_pad cannot be trained; export with explicit padding")
    pads = a.get("pads", [0] * 2 * spatial)
    if not any(pads):
        return x
    flat = [pads[side * spatial + axis] for axis in reversed(range(spatial)) for side in (0, 1)]
    return F.pad(x, flat, value=value)


def _gemm(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    x = x.T if a.get("transA") else x
    out: Tensor = a.get("alpha", 1.0) * (x @ (w.T if a.get("transB") else w))
    return out if b is None else out + a.get("beta", 1.0) * b


def _pooled(a: Attributes, x: Tensor, run: Sequence[Any], value: float) -> Tensor:
    spatial = x.ndim - 2
    if a.get("ceil_mode") or (value == 0.0 and any(a.get("pads", [])) and not a.get("count_include_pad")):
        raise GateError("this pooling cannot be trained: ceil_mode, or padding that is not counted")
    out: Tensor = run[spatial - 1](_padded(a, x, spatial, value), a["kernel_shape"],
                                   a.get("strides", [1] * spatial))
    return out


def _layer_norm(a: Attributes, x: Tensor, scale: Tensor, b: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, x.shape[a.get("axis", -1):], scale, b, a.get("epsilon", 1e-5))


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    wanted = [x.shape[i] if n == 0 and not a.get("allowzero") else n for i, n in enumerate(shape.tolist())]
    return x.reshape(wanted)


def _slice(a: Attributes, x: Tensor, *bounds: Tensor) -> Tensor:
    starts, ends, *rest = (bound.tolist() for bound in bounds)
    axes = rest[0] if rest else range(len(starts))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        span = range(x.shape[axis])[slice(start, end, step)]
        x = x.index_select(axis, torch.tensor(list(span), dtype=torch.long)) if step != 1 else (
            x.narrow(axis, span.start if span else 0, len(span)))
    return x


def _split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    if sizes is not None:
        return torch.split(x, sizes.tolist(), axis)
    return torch.tensor_split(x, a["num_outputs"], axis)


def _gather(a: Attributes, x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    index = torch.where(index < 0, index + x.shape[axis], index).long()
    found = x.index_select(axis, index.reshape(-1))
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1:])


def _squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(n % rank for n in axes.reshape(-1).tolist()):
        x = x.unsqueeze(axis)
    return x


def _reduced(how: str) -> Operator:
    def run(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        listed = axes.tolist() if axes is not None else a.get("axes") or list(range(x.ndim))
        out: Tensor = getattr(torch, how)(x, dim=listed, keepdim=bool(a.get("keepdims", 1)))
        return out

    return run


def _pad(a: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None, *_: Tensor) -> Tensor:
    if a.get("mode", b"constant") != b"constant":
        raise GateError("a padding that is not constant cannot be trained")
    listed = pads.tolist()
    rank = len(listed) // 2
    flat = [listed[side * rank + axis] for axis in reversed(range(rank)) for side in (0, 1)]
    return F.pad(x, flat, value=float(value) if value is not None else 0.0)


def _clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return torch.clamp(x, None if low is None else float(low), None if high is None else float(high))


def _cast(a: Attributes, x: Tensor) -> Tensor:
    return x.to(_TYPES[a["to"]])


def _gelu(a: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=a.get("approximate", b"none").decode())


def _filled(a: Attributes, shape: Tensor) -> Tensor:
    value = a.get("value")
    return torch.full(shape.tolist(), 0.0) if value is None else value.reshape(()).expand(shape.tolist())


def _hard_sigmoid(a: Attributes, x: Tensor) -> Tensor:
    return torch.clamp(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1)


def _divided(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    whole = not (x.is_floating_point() or y.is_floating_point())
    return torch.div(x, y, rounding_mode="trunc" if whole else None)


def _plain(run: Callable[..., Any]) -> Operator:
    return lambda a, *inputs: run(*inputs)


OPERATORS: dict[str, Operator] = {
    "Conv": _convolution, "ConvTranspose": _transposed, "Gemm": _gemm, "MatMul": _plain(torch.matmul),
    "Add": _plain(torch.add), "Sum": lambda a, *terms: sum(terms), "Sub": _plain(torch.sub),
    "Mul": _plain(torch.mul), "Div": _divided,
    "Pow": _plain(torch.pow), "Sqrt": _plain(torch.sqrt), "Exp": _plain(torch.exp), "Log": _plain(torch.log),
    "Erf": _plain(torch.erf), "Neg": _plain(torch.neg), "Abs": _plain(torch.abs), "Tanh": _plain(torch.tanh),
    "Reciprocal": _plain(torch.reciprocal), "Max": _plain(torch.maximum), "Min": _plain(torch.minimum),
    "Relu": _plain(torch.relu), "Sigmoid": _plain(torch.sigmoid), "Softplus": _plain(F.softplus),
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "PRelu": lambda a, x, w: torch.where(x > 0, x, w * x),
    "Elu": lambda a, x: F.elu(x, a.get("alpha", 1.0)),
    "HardSwish": _plain(F.hardswish), "HardSigmoid": _hard_sigmoid, "Clip": _clip, "Gelu": _gelu,
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "LogSoftmax": lambda a, x: torch.log_softmax(x, a.get("axis", -1)),
    "LayerNormalization": _layer_norm,
    "BatchNormalization": lambda a, x, w, b, m, v: F.batch_norm(x, m, v, w, b, eps=a.get("epsilon", 1e-5)),
    "Reshape": _reshape, "Flatten": lambda a, x: x.reshape(math.prod(x.shape[: a.get("axis", 1)]), -1),
    "Transpose": lambda a, x: x.permute(a["perm"]) if "perm" in a else x.permute(*reversed(range(x.ndim))),
    "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Split": _split, "Slice": _slice, "Gather": _gather,
    "Concat": lambda a, *inputs: torch.cat(inputs, a["axis"]),
    "Expand": lambda a, x, shape: x * torch.ones(shape.tolist(), dtype=x.dtype),
    "Tile": lambda a, x, times: x.repeat(times.tolist()),
    "Shape": lambda a, x: torch.tensor(x.shape)[a.get("start"): a.get("end")],
    "Cast": _cast, "Identity": lambda a, x: x, "Dropout": lambda a, x, *_: x,
    "Constant": lambda a: a["value"], "ConstantOfShape": _filled,
    "Where": _plain(torch.where), "Equal": _plain(torch.eq), "Greater": _plain(torch.gt),
    "Less": _plain(torch.lt), "GreaterOrEqual": _plain(torch.ge), "LessOrEqual": _plain(torch.le),
    "Not": _plain(torch.logical_not), "And": _plain(torch.logical_and), "Or": _plain(torch.logical_or),
    "ReduceMean": _reduced("mean"), "ReduceSum": _reduced("sum"), "ReduceMax": _reduced("amax"),
    "ReduceMin": _reduced("amin"), "Pad": _pad,
    "GlobalAveragePool": lambda a, x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda a, x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    "AveragePool": lambda a, x: _pooled(a, x, (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), 0.0),
    "MaxPool": lambda a, x: _pooled(a, x, (F.max_pool1d, F.max_pool2d, F.max_pool3d), -math.inf),
}
