"""The metric of a model file, example by example, so that two files can be compared in pairs."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ..errors import MetricError
from ..spaces.subject import Array, Split, Subject
from .measurement import Measurement
from .runtimes import Session

BATCH = 64
Z95 = 1.959964  # half width of a 95 % normal interval, in standard errors


@dataclass(frozen=True, slots=True)
class Drop:
    """Metric of the untouched model minus the candidate's on the same n examples, 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def supports(self, max_drop: float) -> bool:
        """Whether the data show that no more than `max_drop` is lost."""
        return self.high <= max_drop


def outputs(session: Session, split: Split) -> Array:
    """The first output for every example, (n, ...)."""
    size = session.fixed_batch or BATCH
    return np.concatenate([session.run(part.inputs) for part in split.batches(size)])


def scores(session: Session, split: Split, subject: Subject) -> NDArray[np.float64]:
    """The metric of every example, (n,), 0-1. Raises MetricError: not a number, or out of range."""
    values = np.asarray(subject.score(outputs(session, split), split.targets), np.float64)
    if values.shape != (len(split),):
        raise MetricError(f"score gave shape {values.shape}, it must give ({len(split)},)")
    if not np.isfinite(values).all():
        raise MetricError("the metric is not a number on some examples")
    if values.min() < 0 or values.max() > 1:
        raise MetricError(f"the metric runs {values.min():.3g}..{values.max():.3g}, it must be 0..1")
    return values


def mean(values: NDArray[np.float64]) -> Measurement:
    """The metric with its standard error."""
    return Measurement(float(values.mean()), "fraction", "measured", _error(values), len(values))


def drop(untouched: NDArray[np.float64], candidate: NDArray[np.float64]) -> Drop:
    """Paired comparison on the same examples; both (n,).

    Normal interval of the differences, at least 3 / n wide to either side: what never occurred in n
    examples may have up to that probability (rule of three, Jovanovic and Levy 1997).
    """
    difference = untouched - candidate
    value, half = float(difference.mean()), max(Z95 * _error(difference), 3 / len(difference))
    return Drop(value, value - half, value + half, len(difference))


def _error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / sqrt(len(values))) if len(values) > 1 else 0.0
