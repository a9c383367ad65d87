"""A few measurements on the device -> a profile whose predictions are in its own milliseconds.

Maximum a posteriori fit of the logs of the coefficients, around the beliefs of `prior.py`, to the logs
of the latencies, with Student-t noise (one odd measurement does not bend the rest). Which typical
machine it is, how noisy the form is and how far compute, traffic and launches move as wholes is not
known beforehand, so a small grid of these is fitted and averaged with the weight of its evidence
(Laplace); the average is again a sum of coefficient x feature, as predictions are linear in the
coefficients. From eight measurements on, two plainer forms (MACs, bytes and kernels; MACs alone) are
tried against it by the error on what was left out.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ProfileError
from .features import NAMES, Array
from .kernel import Kernel
from .predict import QUANTILE, expected, vector_of
from .prior import Belief, Prior, beliefs
from .profile import Calibration, Dtype, HardwareProfile

Measured = tuple[Sequence[Kernel], float]  # a file's kernels, and its latency in milliseconds

FREE_SCALE = 3.0  # sd: e^3 either way, so the declared peak hardly matters
_NOISES = (0.01, 0.03, 0.1, 0.2)  # sd of the log latency that the form cannot explain
_GROUP_SDS = (0.0, 1.5)  # how far compute, traffic and launches move as wholes
_GROUPS = (("winograd", "conv", "pw", "dw", "gconv", "mm", "fc"),
           ("weights", "computed", "moved", "unfolded", "island", "quant"),
           ("kernels", "others", "once", "depth"))
# Measurements to choose a form by; how much better a plainer one must be, as eight errors tell their mean to
# about a third.
_ENOUGH, _BETTER = 8, 1.5
_TIED, _NONE = 0.05, -14.0  # sd within a group; log microseconds of what a form leaves out
_TAIL = 4.0  # degrees of freedom of the noise
_STEPS = 30
_WINOGRAD = 5.07  # F(6x6, 3x3) does so many times fewer MACs than are counted
_OVER_PEAK = 1.2  # a measured rate may be so far above a vendor's peak


@dataclass(frozen=True, slots=True)
class Fit:
    """What the measurements say: the belief after them, and the noise (sd of the log)."""

    found: Belief
    noise: float


@dataclass(frozen=True, slots=True)
class _Tried:
    """One member of the grid, with the log of its evidence."""

    evidence: float
    mean: Array
    covariance: Array
    noise: float


def calibrate(profile: HardwareProfile, measurements: Sequence[Measured], dtype: Dtype = "fp32",
              typical: Sequence[Prior] | None = None) -> HardwareProfile:
    """The profile with `.calibration[dtype]` set; unchanged for no measurements.

    Latencies in milliseconds, at batch 1, with the profile's runtime and threads; five are enough
    for most of the gain, variants of one's own model are better than a zoo. `typical` as in `predict`.
    Raises ProfileError for a latency that is none, no kernels, a dtype that the profile does not
    list, and a rate above a vendor's peak.
    """
    if not measurements:
        return profile
    vectors = np.array([vector_of(kernels, profile, dtype) for kernels, _ in measurements])
    log_us = np.log([_checked(latency_ms) * 1e3 for _, latency_ms in measurements])
    _check_peak(profile, dtype, vectors, log_us)
    entry = _entry(vectors, log_us, beliefs(profile, dtype, typical))
    return profile.model_copy(update={"calibration": {**profile.calibration, dtype: entry}})


def starts(before: Sequence[Belief]) -> list[Belief]:
    """Where the fit of the additive roofline may start from: each machine, its groups tied or free."""
    return [Belief(b.mean, b.covariance + FREE_SCALE**2 + sd**2 * _SAME_GROUP, b.log_weight)
            for b in before for sd in _GROUP_SDS]


def fit(vectors: Array, log_us: Array, begin: Sequence[Belief]) -> Fit:
    """Average over starts and noises. `vectors` (models, features), `log_us` (models,)."""
    tried = [_candidate(vectors, log_us, start, noise) for start in begin for noise in _NOISES]
    evidence = np.array([each.evidence for each in tried])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    mean = np.log(sum(w * np.exp(each.mean) for w, each in zip(weights, tried, strict=True)))
    spread = sum(w * (each.covariance + np.outer(each.mean - mean, each.mean - mean))
                 for w, each in zip(weights, tried, strict=True))
    noise = math.sqrt(sum(w * each.noise**2 for w, each in zip(weights, tried, strict=True)))
    return Fit(Belief(mean, np.asarray(spread)), noise)


def map_fit(
    vectors: Array, log_us: Array, mean: Array, precision: Array, noise: float
) -> tuple[Array, Array]:
    """Most probable logs of the coefficients, and the curvature there; Levenberg-Marquardt."""
    start = log_us - np.log(vectors @ np.exp(mean))
    theta, damping = mean + np.median(start), 1e-3
    cost = _cost(theta, vectors, log_us, mean, precision, noise)
    for _ in range(_STEPS):
        slope, curvature = _slope(theta, vectors, log_us, mean, precision, noise)
        step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), slope)
        trial = theta + np.clip(step, -2, 2)
        new = _cost(trial, vectors, log_us, mean, precision, noise)
        if new > cost:
            damping *= 10
            continue
        theta, gained, cost, damping = trial, cost - new, new, damping * 0.2
        if gained < 1e-6:
            break
    return theta, _slope(theta, vectors, log_us, mean, precision, noise)[1]


def _cost(theta: Array, vectors: Array, log_us: Array, mean: Array, precision: Array, noise: float) -> float:
    """Twice the negative log posterior, but for constants."""
    residual = (log_us - np.log(vectors @ np.exp(theta))) / noise
    off = theta - mean
    return float((_TAIL + 1) * np.log1p(residual**2 / _TAIL).sum() + off @ precision @ off)


def _slope(theta: Array, vectors: Array, log_us: Array, mean: Array, precision: Array,
           noise: float) -> tuple[Array, Array]:
    parts = vectors * np.exp(theta)
    total = parts.sum(axis=1)
    shares = parts / total[:, None]
    residual = log_us - np.log(total)
    weight = (_TAIL + 1) / (_TAIL + (residual / noise) ** 2) / noise**2
    slope = shares.T @ (weight * residual) - precision @ (theta - mean)
    return slope, (shares.T * weight) @ shares + precision


def _candidate(vectors: Array, log_us: Array, start: Belief, noise: float) -> _Tried:
    precision = np.asarray(np.linalg.inv(start.covariance), np.float64)
    theta, curvature = map_fit(vectors, log_us, start.mean, precision, noise)
    cost = _cost(theta, vectors, log_us, start.mean, precision, noise)
    volume = np.linalg.slogdet(precision)[1] - np.linalg.slogdet(curvature)[1]
    evidence = start.log_weight + (volume - cost) / 2 - len(log_us) * math.log(noise)
    return _Tried(float(evidence), theta, np.asarray(np.linalg.inv(curvature), np.float64), noise)


def _same(groups: Sequence[Sequence[str]]) -> Array:
    """1 where two features are of one group."""
    rows = [np.array([float(name in group) for name in NAMES]) for group in groups]
    return np.asarray(sum(np.outer(row, row) for row in rows))


_SAME_GROUP = _same(_GROUPS)


def _plain(groups: Sequence[Sequence[str]]) -> list[Belief]:
    """A form whose coefficients are one number a group, and none for what is in no group."""
    inside = {name for group in groups for name in group}
    mean = np.array([0.0 if name in inside else _NONE for name in NAMES])
    return [Belief(mean, FREE_SCALE**2 + FREE_SCALE**2 * _same(groups) + _TIED**2 * np.eye(len(NAMES)))]


def _entry(vectors: Array, log_us: Array, before: Sequence[Belief]) -> Calibration:
    form, begin, error = choose(vectors, log_us, before)
    final = fit(vectors, log_us, begin)
    sd = float(np.median([expected(vector, final.found, final.noise)[1] for vector in vectors]))
    return Calibration(
        form=form, noise=final.noise, models=len(log_us), doubt=math.exp(min(20.0, QUANTILE * sd)),
        coefficients={n: float(c) for n, c in zip(NAMES, np.exp(final.found.mean), strict=True)},
        log_covariance=tuple(tuple(round(float(x), 6) for x in row[:i + 1])
                             for i, row in enumerate(final.found.covariance)),
        loo_mape=math.expm1(min(20.0, sd)) if error is None else error,
        data=hashlib.sha256(np.c_[vectors, log_us].tobytes()).hexdigest(),
    )


def choose(vectors: Array, log_us: Array, before: Sequence[Belief]) -> tuple[str, list[Belief], float | None]:
    """The form with the least error on what was left out, its starts, that error (None: one measurement)."""
    forms = {"roofline": starts(before)}
    if len(log_us) < 2:
        return "roofline", forms["roofline"], None
    if len(log_us) >= _ENOUGH:
        forms |= {"three features": _plain(_GROUPS), "MACs": _plain(_GROUPS[:1])}
    errors = {name: _left_out_error(vectors, log_us, begin) for name, begin in forms.items()}
    best = min(errors, key=lambda name: errors[name] * (1 if name == "roofline" else _BETTER))
    return best, forms[best], errors[best]


def _left_out_error(vectors: Array, log_us: Array, begin: Sequence[Belief]) -> float:
    """Mean relative error of each measurement from a fit to the others."""
    errors = []
    for i in range(len(log_us)):
        others = np.arange(len(log_us)) != i
        found = fit(vectors[others], log_us[others], begin).found
        errors.append(abs(expected(vectors[i], found)[0] / math.exp(log_us[i]) - 1))
    return float(np.mean(errors))


def _checked(latency_ms: float) -> float:
    if not (math.isfinite(latency_ms) and latency_ms > 0):
        raise ProfileError(f"a latency must be a positive number of milliseconds, not {latency_ms!r}")
    return latency_ms


def _check_peak(profile: HardwareProfile, dtype: Dtype, vectors: Array, log_us: Array) -> None:
    """Only a vendor's peak can be impossible: others are guesses that the free scale puts right.

    Even with Winograd's saving in every 3x3 and the doubt of the peak (two sd) granted.
    """
    peak = profile.precisions[dtype].peak
    if peak is None or peak.basis != "vendor":
        return
    mmacs = vectors[:, 1:7].sum(axis=1) + vectors[:, 0] / _WINOGRAD
    rate = float((mmacs / np.exp(log_us)).max()) * 1e3  # MMAC per microsecond -> GMAC/s
    if rate > peak.base * max(_OVER_PEAK, math.exp(2 * peak.rel_sd)):
        raise ProfileError(f"{profile.name}: peak below a measured rate: {dtype} peak {peak.base:.4g} GMAC/s "
                           f"({peak.src}), measured {rate:.4g} GMAC/s. Correct the peak or the measurement")
