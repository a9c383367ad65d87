"""What is believed of a machine before it is measured: the typical ones of its kind, and its profile.

Per coefficient a log-normal; the numbers of the profile are noisy sightings of some of them, so a
number that is missing costs width, not a special case. The defaults were learned by `benchmarks/
predictor.py --learn` (hierarchical fit) from public tables; the errors quoted there are of machines
that were left out of the learning.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .features import NAMES, Array
from .profile import HardwareProfile, KernelClass
from .quantity import Quantity

SCALE_SD = 1.5  # of a machine against the typical one of its kind, in log time
_SIGHT_SD = 1.0  # what a data sheet leaves open even where it is right: sustained is not peak
_DEFAULT_SHARE = 0.3  # of the peak, where a profile gives no efficiency
_CLASS: dict[KernelClass, tuple[str, ...]] = {
    "conv": ("winograd", "conv"), "pw": ("pw",), "dw": ("dw", "gconv"), "gemm": ("mm", "fc"),
}
_DOTS = {"winograd", "conv", "pw", "mm", "fc"}  # sums over channels: int8 instructions do four at a time


@dataclass(frozen=True, slots=True)
class Prior:
    """A typical machine: microseconds per unit of each feature, and the sd of their logs."""

    coefficients: tuple[float, ...]
    sd: tuple[float, ...]
    runtime: str = ""  # of a profile, that makes this machine the likelier one
    int8_rate: float = 1.0  # int8 MACs in the time of a float one, in sums over channels


@dataclass(frozen=True, slots=True)
class Belief:
    """Normal distribution of the logs of the coefficients."""

    mean: Array  # (features,)
    covariance: Array  # (features, features)
    log_weight: float = 0.0  # against the other typical machines of the kind


# Sources: ncnn benchmark tables (cpu: 8 SoCs, gpu: 8 GPUs under Vulkan), Qualcomm AI Hub (npu: 3
# devices), MLPerf Tiny (mcu: 28 Cortex-M results). In the order of NAMES; the last three are guesses.
DEFAULTS: dict[str, Prior] = {
    "cpu": Prior(
        (4.35, 54.1, 34.6, 22.7, 32.3, 120, 286, 21.9, 113, 102, 3.2, 0.974, 44.2, 76.3, 286,
         480, 160, 1600),
        (0.58, 0.44, 0.39, 0.68, 0.41, 0.47, 0.46, 0.71, 0.55, 0.59, 0.77, 0.76, 0.76, 0.57,
         0.4, 0.76, 0.76, 0.76),
    ),
    "gpu": Prior(
        (0.532, 16.8, 15.9, 23.3, 15.4, 158, 253, 12.8, 98.4, 94.6, 47.9, 0.854, 40.5, 129, 250,
         332, 111, 1110),
        (0.71, 0.51, 0.41, 0.66, 0.54, 0.58, 0.58, 0.74, 0.41, 0.43, 0.62, 0.77, 0.77, 0.87,
         0.57, 0.78, 0.78, 0.78),
    ),
    "npu": Prior(
        (0.0659, 0.0517, 0.0866, 11.7, 0.307, 0.239, 0.206, 25.1, 2.43, 3.78, 0.263, 3.88, 345,
         0.464, 0.672, 15.5, 5.17, 1550),
        (0.65, 0.73, 0.57, 0.55, 0.55, 0.62, 0.75, 0.53, 0.69, 0.67, 0.73, 0.61, 0.55, 0.72,
         0.74, 0.75, 0.75, 0.75),
    ),
    "mcu": Prior(
        (9150, 8010, 10500, 18100, 6980, 6980, 2840, 35200, 59100, 24400, 91.3, 147, 1170, 759,
         9630, 62800, 20900, 209000),
        (0.4, 0.6, 0.36, 0.61, 0.8, 0.8, 0.62, 0.69, 0.5, 0.77, 0.58, 0.79, 0.53, 0.52, 0.75,
         0.8, 0.8, 0.8),
    ),
}


# Written down, not learned: a CPU without Winograd that reaches 80 GMAC/s at the efficiencies the catalogue
# assumes of one (a grouped convolution half way, in logs, between a dense and a depthwise one), four int8
# MACs in the time of a float one (VNNI), 20 GB/s, and 2 us a launch.
ONNXRUNTIME = Prior(
    (25, 25, 28, 125, 56, 36, 200, 50, 50, 50, 2, 2, 5, 0.5, 25, 50, 50, 50),
    (0.6,) * len(NAMES), "onnxruntime", int8_rate=4.0)
TYPICAL: dict[str, tuple[Prior, ...]] = {
    kind: (learned, ONNXRUNTIME) if kind == "cpu" else (learned,) for kind, learned in DEFAULTS.items()}
MATCH = 4.0  # so much likelier is the typical machine with the profile's own runtime


def beliefs(profile: HardwareProfile, dtype: str, typical: Sequence[Prior] | None = None) -> list[Belief]:
    """The typical machines of the kind, each moved by what the profile says of this one."""
    return [_moved(prior, profile, dtype) for prior in typical or TYPICAL[profile.kind]]


def _moved(typical: Prior, profile: HardwareProfile, dtype: str) -> Belief:
    mean = np.log(typical.coefficients)
    if dtype == "int8":
        mean -= math.log(typical.int8_rate) * np.array([name in _DOTS for name in NAMES])
    covariance = np.diag(np.square(typical.sd)) + SCALE_SD**2
    for name, value, sd in _sightings(profile, dtype):
        i = NAMES.index(name)
        gain = covariance[i] / (covariance[i, i] + sd**2)
        mean = mean + gain * (math.log(value) - mean[i])
        covariance = covariance - np.outer(gain, covariance[i])
    return Belief(mean, covariance, math.log(MATCH if typical.runtime == profile.runtime.name else 1.0))


def _sightings(profile: HardwareProfile, dtype: str) -> list[tuple[str, float, float]]:
    """(feature, microseconds per unit, sd of its log) for each number that the profile gives."""
    memory = profile.memory
    out = _peaks(profile, dtype)
    if memory.bandwidth:
        out += [(n, 1e3 / memory.bandwidth.base, _sd(memory.bandwidth)) for n in ("computed", "weights")]
    if memory.spill:
        out.append(("spill", 1e3 / memory.spill.base, max(0.05, memory.spill.rel_sd)))
    if profile.launch_overhead:
        out.append(("kernels", profile.launch_overhead.base, _sd(profile.launch_overhead)))
    return out


def _peaks(profile: HardwareProfile, dtype: str) -> list[tuple[str, float, float]]:
    peak = next(p.peak for name, p in profile.precisions.items() if name == dtype)
    if peak is None:
        return []
    if not profile.efficiency:
        return [("conv", 1e3 / (peak.base * _DEFAULT_SHARE), math.hypot(_sd(peak), 1.0))]
    return [(name, 1e3 / (peak.base * share.base), math.hypot(_sd(peak), share.rel_sd))
            for kind, share in profile.efficiency.items() for name in _CLASS[kind]]


def _sd(quantity: Quantity) -> float:
    return math.hypot(quantity.rel_sd, _SIGHT_SD)
