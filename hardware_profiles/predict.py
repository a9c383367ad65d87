"""Latency of a kernel list on a profile, with the interval that it lies in; no device is asked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ProfileError
from .features import NAMES, Array, features
from .kernel import Kernel
from .prior import Belief, Prior, beliefs
from .profile import Calibration, HardwareProfile

QUANTILE = 2.2  # of a Student t at about ten degrees of freedom, 95 %
UNCALIBRATED = 3.0  # at least this factor each way where nothing was measured
_LARGEST = 1e6  # the interval ends somewhere


@dataclass(frozen=True, slots=True)
class Prediction:
    """Milliseconds; the truth lies within low .. high in 95 of 100 cases."""

    latency_ms: float
    low_ms: float
    high_ms: float


def predict(kernels: Sequence[Kernel], profile: HardwareProfile, dtype: str = "fp32",
            typical: Sequence[Prior] | None = None) -> Prediction:
    """What one inference takes at batch 1.

    Without a calibration for `dtype` it ranks, no more; the interval says so. `typical` replaces the
    typical machines of the kind (for benchmarks that must not have seen the device). Raises
    ProfileError for no kernels, or a dtype that the profile does not list.
    """
    vector = vector_of(kernels, profile, dtype)
    known = {str(name): found for name, found in profile.calibration.items()}.get(dtype)
    if known is None:
        return _between(*unmeasured(vector, beliefs(profile, dtype, typical)), at_least=UNCALIBRATED)
    found, noise = _stored(known)
    return _between(*expected(vector, found, noise))


def vector_of(kernels: Sequence[Kernel], profile: HardwareProfile, dtype: str) -> Array:
    """The features, after the checks that predicting and calibrating share."""
    if dtype not in profile.precisions:
        has = ", ".join(profile.precisions) or "none"
        raise ProfileError(f"{profile.name} does not run {dtype} files; its precisions: {has}")
    if not kernels:
        raise ProfileError("no kernels: there is nothing to time. Read them from the file (graph.py)")
    return features(kernels, profile, dtype)


def expected(vector: Array, found: Belief, noise: float = 0.0) -> tuple[float, float]:
    """Microseconds, and the sd of their log: doubt in the coefficients and `noise` of the form."""
    parts = vector * np.exp(found.mean)
    total = float(parts.sum())
    share = parts / total
    return total, math.sqrt(max(0.0, float(share @ found.covariance @ share)) + noise**2)


def unmeasured(vector: Array, before: Sequence[Belief]) -> tuple[float, float]:
    """The geometric mean of what the typical machines take, in microseconds, and the sd of its log."""
    each = np.array([expected(vector, found) for found in before])
    logs = np.log(each[:, 0])
    return float(np.exp(logs.mean())), float(np.hypot(logs.std(), each[:, 1].max()))


def _stored(known: Calibration) -> tuple[Belief, float]:
    """What `calibrate.py` wrote, as arrays."""
    missing = [name for name in NAMES if name not in known.coefficients]
    if missing or len(known.log_covariance) != len(NAMES):
        raise ProfileError(f"calibration is of another version (no {', '.join(missing)}): calibrate again")
    mean = np.log([known.coefficients[name] for name in NAMES])
    lower = np.zeros((len(NAMES), len(NAMES)))
    lower[np.tril_indices(len(NAMES))] = [x for row in known.log_covariance for x in row]
    return Belief(mean, lower + np.tril(lower, -1).T), known.noise


def _between(total_us: float, sd: float, at_least: float = 1.0) -> Prediction:
    factor = min(_LARGEST, max(at_least, math.exp(min(20.0, QUANTILE * sd))))
    ms = total_us / 1e3
    return Prediction(ms, ms / factor, ms * factor)
