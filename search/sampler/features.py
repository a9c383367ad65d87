"""What is known of a candidate as numbers for a surrogate, and freed of errors that differ one by one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .vectors import Rows

SAME = 1e-6  # relative error up to which figures are equal
TERMS, RIDGE = 600, 0.1  # of the sum that costs are smoothed by
TINY, HUGE, FAR = 1e-300, 1e300, 6.0


@dataclass(frozen=True)
class Scale:
    """Costs of mean 0 and variance 1 over a sample, their logarithms where all are positive."""

    mean: Rows
    spread: Rows
    logarithmic: NDArray[np.bool_]

    @staticmethod
    def of(costs: Rows) -> "Scale":
        logarithmic = np.asarray((costs > 0).all(axis=0))
        values = _values(costs, logarithmic)
        return Scale(values.mean(0), values.std(0) + SAME, logarithmic)

    def values(self, costs: Rows) -> Rows:
        return _values(costs, self.logarithmic)

    def column(self, j: int, costs: Rows) -> Rows:
        """(n,) values of one cost."""
        return _values(costs, self.logarithmic[j])

    def features(self, costs: Rows) -> Rows:
        """Within FAR spreads: a trial that was given to the study may cost anything."""
        found: Rows = np.clip((self.values(costs) - self.mean) / self.spread, -FAR, FAR)
        return found


def _values(costs: Rows, logarithmic: NDArray[np.bool_]) -> Rows:
    return np.where(logarithmic, np.log(np.clip(costs, TINY, HUGE)), np.clip(costs, -HUGE, HUGE))


@dataclass(frozen=True)
class Smooth:
    """Costs as a sum over parameters, and over pairs where those are few, fitted to a sample of candidates.

    Errors that differ from candidate to candidate cancel in it.
    """

    paired: bool
    weights: Rows  # (terms, costs)

    @staticmethod
    def of(points: Rows, values: Rows) -> "Smooth":
        paired = points.shape[1] ** 2 / 2 <= TERMS
        terms = _terms(points, paired)
        square = terms.T @ terms + RIDGE * np.eye(terms.shape[1])
        return Smooth(paired, np.asarray(np.linalg.solve(square, terms.T @ values), float))

    def __call__(self, points: Rows) -> Rows:
        found: Rows = _terms(points, self.paired) @ self.weights
        return found


def _terms(points: Rows, paired: bool) -> Rows:
    one = np.hstack([points, np.ones((len(points), 1))])
    if not paired:
        return one
    i, j = np.triu_indices(one.shape[1])
    return one[:, i] * one[:, j]
