"""What a latency is a sum over: a kernel list as one vector, each entry times so many microseconds.

The additive roofline: every kind of work has its own entry, so that time = sum of coefficient x
feature stays linear in what a calibration has to find. Beyond MACs and bytes there are `depth` (the
longest chain of dependent MACs of each kernel: what a wide machine waits for when an output is small)
and `unfolded` (bytes of the k x k patches that a dense convolution without Winograd gathers).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .kernel import Kernel
from .profile import HardwareProfile, Precision

Array = npt.NDArray[np.float64]

# name -> unit, in the order of the vector
UNITS = {
    "winograd": "MMAC of dense 3x3, stride 1, 16 channels or more", "conv": "MMAC of other dense k > 1",
    "pw": "MMAC", "dw": "MMAC", "gconv": "MMAC", "mm": "MMAC", "fc": "MMAC",
    "weights": "MB of weights (fc apart: they are its MMAC)",
    "computed": "MB in and out of kernels with MACs",
    "moved": "MB in and out of kernels without", "kernels": "kernels with MACs", "others": "kernels without",
    "once": "1", "depth": "thousand MACs that wait for each other", "unfolded": "MB of k x k patches",
    "island": "MB in and out of float kernels in an integer file", "quant": "MB across its borders",
    "spill": "MB of weights beyond the on-chip memory",
}
NAMES = tuple(UNITS)
_AT = {name: i for i, name in enumerate(NAMES)}
_FLOATS = {"fp32": 4.0, "fp16": 2.0}
_ISLAND_MACS = 3.0  # a float MAC in an int8 file, in int8 MACs: measured x86 speed-ups are about 3
_WINOGRAD_CHANNELS = 16
_BLOCK = 16  # channels: a CPU's dense kernels compute whole blocks, so 17 cost like 32
_IMAGE = 4  # channels of an input image, for which they have a kernel of its own


def features(kernels: Sequence[Kernel], profile: HardwareProfile, dtype: str) -> Array:
    """The vector of a kernel list, shape (features,); units in `UNITS`."""
    precision = next(p for name, p in profile.precisions.items() if name == dtype)
    out = [0.0] * len(NAMES)
    out[_AT["once"]] = 1.0
    for kernel in kernels:
        _add(out, kernel, precision, dtype, _BLOCK if profile.kind == "cpu" else 1)
    out[_AT["spill"]] = _spilled_mb(kernels, profile, precision)
    return np.array(out)


def _add(out: list[float], kernel: Kernel, precision: Precision, dtype: str, block: int) -> None:
    width = _FLOATS.get(kernel.dtype, 0.0) if dtype.startswith("int") else 0.0
    island = width > precision.activation_bytes  # not where only the weights are integers
    width = width if island else precision.activation_bytes
    mb = (kernel.in_elems + kernel.out_elems) * width / 1e6
    if kernel.op == "quant":
        out[_AT["quant"]] += mb
    elif island:
        out[_AT["island"]] += mb
    else:
        out[_AT["computed" if kernel.macs else "moved"]] += mb
    out[_AT["kernels" if kernel.macs else "others"]] += 1
    if kernel.macs:
        _add_macs(out, kernel, precision, _padding(kernel, block) * (_ISLAND_MACS if island else 1.0))


def _add_macs(out: list[float], kernel: Kernel, precision: Precision, slower: float) -> None:
    kind = _kind(kernel)
    out[_AT[kind]] += kernel.macs * slower / 1e6
    out[_AT["depth"]] += kernel.macs / max(1, kernel.out_elems) / 1e3
    if kind != "fc":
        out[_AT["weights"]] += kernel.weights * precision.weight_bytes / 1e6
    if kernel.op == "conv":
        out[_AT["unfolded"]] += kernel.macs / max(1, kernel.c_out) * precision.activation_bytes / 1e6


def _padding(kernel: Kernel, block: int) -> float:
    """How many times its MACs a dense convolution does, to fill its blocks of channels."""
    if kernel.op not in ("conv", "pw"):
        return 1.0
    padded_in = kernel.c_in if kernel.c_in <= _IMAGE else -(-kernel.c_in // block) * block
    return padded_in * (-(-kernel.c_out // block) * block) / (kernel.c_in * kernel.c_out)


def _kind(kernel: Kernel) -> str:
    """The class of its MACs. A kernel of an unknown operator counts as a matrix product."""
    if kernel.op == "conv" and _fits_winograd(kernel):
        return "winograd"
    return kernel.op if kernel.op in ("conv", "pw", "dw", "gconv", "fc") else "mm"


def _fits_winograd(kernel: Kernel) -> bool:
    """The stride is not told: a map that shrinks by less than half is stride 1."""
    shrink = kernel.in_elems * kernel.c_out / max(1, kernel.out_elems * kernel.c_in)
    return kernel.kernel == 3 and shrink < 2 and min(kernel.c_in, kernel.c_out) >= _WINOGRAD_CHANNELS


def _spilled_mb(kernels: Sequence[Kernel], profile: HardwareProfile, precision: Precision) -> float:
    """Weights that are streamed at each inference, where the profile tells what fits and how fast."""
    memory = profile.memory
    if memory.onchip is None or memory.spill is None:
        return 0.0
    held = sum(kernel.weights for kernel in kernels) * precision.weight_bytes
    return max(0.0, held - memory.onchip.base) / 1e6
