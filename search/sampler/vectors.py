"""Parameter sets as rows of numbers, and back: what pool and surrogate compute with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Params = dict[str, Any]
Rows = NDArray[np.float64]
Levels = NDArray[np.int64]

ABSENT = -1.0  # in place of a parameter that a trial does not ask for
GRAINS = 64  # places that a continuous parameter is told apart by


@dataclass(frozen=True)
class Vectors:
    """A row has one column a parameter: the index of a category, or the place in a range from 0 to 1."""

    space: Mapping[str, BaseDistribution]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.space)

    @cached_property
    def categorical(self) -> NDArray[np.bool_]:
        return np.array([isinstance(d, CategoricalDistribution) for d in self.space.values()], bool)

    @cached_property
    def sizes(self) -> Levels:
        """How many values each parameter has; continuous ones have GRAINS."""
        return np.array([_size(d) for d in self.space.values()], np.int64)

    def encode(self, params: Mapping[str, Any]) -> Rows:
        """(d,); parameters that are missing are ABSENT."""
        return np.array([_place(d, params[n]) if n in params else ABSENT for n, d in self.space.items()])

    def decode(self, row: Rows) -> Params:
        """Without the absent ones."""
        found = {}
        for name, place, known in zip(self.space, row.tolist(), self._values, strict=True):
            if place != ABSENT:
                if place not in known:
                    known[place] = _value(self.space[name], place)
                found[name] = known[place]
        return found

    @cached_property
    def _values(self) -> list[dict[float, Any]]:
        """Of each parameter, by place: they are asked for over and over."""
        return [{} for _ in self.space]

    def stack(self, rows: Sequence[Rows]) -> Rows:
        return np.array(rows, float).reshape(len(rows), len(self.names))

    def rows(self, levels: Levels) -> Rows:
        """(m, d) whole numbers below `sizes`, or -1 for absent, as rows."""
        places = levels / np.maximum(self.sizes - 1, 1)
        return np.where(levels < 0, ABSENT, np.where(self.categorical, levels, places))

    def levels(self, rows: Rows) -> Levels:
        """The inverse of `rows`."""
        scaled = np.where(self.categorical, rows, rows * np.maximum(self.sizes - 1, 1))
        return np.where(rows == ABSENT, -1, np.rint(scaled)).astype(np.int64)

    def keys(self, rows: Rows) -> list[bytes]:
        """Equal for rows that stand for the same parameters."""
        return [row.tobytes() for row in np.round(rows, 9) + 0.0]

    @cached_property
    def owners(self) -> Levels:
        """(p,) the column of a row that each column of `embed` comes from."""
        width = np.where(self.categorical, self.sizes, 2)
        return np.repeat(np.arange(len(width)), width)

    def embed(self, rows: Rows) -> Rows:
        """(n, p) points whose squared distance is 1 a differing category, and (x - y)^2 a range.

        A parameter that only one of two has counts as a differing category.
        """
        half = np.sqrt(0.5)
        parts = []
        for j, size in enumerate(self.sizes):
            place = rows[:, [j]]
            if self.categorical[j]:
                parts.append(half * (place == np.arange(size)))
            else:
                parts.append(np.hstack([np.where(place == ABSENT, 0.5, place), place == ABSENT]))
        return np.hstack(parts).astype(float)


def _size(distribution: BaseDistribution) -> int:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.single():
        return 1
    if distribution.step is None:
        return GRAINS
    return round((distribution.high - distribution.low) / distribution.step) + 1


def _place(distribution: BaseDistribution, value: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return float(distribution.to_internal_repr(value))
    scale, low, high = _span(distribution)
    return (scale(value) - low) / (high - low) if high > low else 0.0


def _value(distribution: BaseDistribution, place: float) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(place)]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    _, low, high = _span(distribution)
    value = low + place * (high - low)
    value = exp(value) if distribution.log else value
    if distribution.step is not None:
        steps = round((value - distribution.low) / distribution.step)
        value = distribution.low + steps * distribution.step
    value = min(max(value, distribution.low), distribution.high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)


def _span(distribution: BaseDistribution) -> tuple[Callable[[float], float], float, float]:
    """The scale on which a range is even, and its ends there."""
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    scale: Callable[[float], float] = log if distribution.log else float
    return scale, scale(distribution.low), scale(distribution.high)
