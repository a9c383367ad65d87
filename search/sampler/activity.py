"""Which parameters a trial asks for: told by the user, or learned from the trials."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .vectors import Levels, Params, Vectors

Activity = Callable[[Levels], Levels]  # levels -> the same with -1 where nothing would be asked
Active = Callable[[Params], Collection[str]]


def told(active: Active, vectors: Vectors, switches: Collection[str]) -> Activity:
    """`active` is asked once for every setting of the `switches`, on which alone it depends."""
    columns = [vectors.names.index(name) for name in switches]
    known: dict[bytes, NDArray[np.bool_]] = {}

    def mask(levels: Levels) -> NDArray[np.bool_]:
        key = levels[columns].tobytes()
        if key not in known:
            asked = active(vectors.decode(vectors.rows(levels[None])[0]))
            known[key] = np.array([name in asked for name in vectors.names], bool)
        return known[key]

    def activity(levels: Levels) -> Levels:
        masks = np.array([mask(row) for row in levels], bool).reshape(levels.shape)
        return np.where(masks, levels, -1)

    return activity


def learned(levels: Levels) -> Activity:
    """From what was tried (t, d): a parameter that some lack depends on another that explains it.

    Of several that do, on the one with the fewest values: it takes the least chance to explain anything.
    """
    lacking = map(int, np.flatnonzero((levels < 0).any(axis=0)))
    return _Rules([rule for column in lacking if (rule := _rule(levels, column))])


@dataclass(frozen=True)
class _Rule:
    column: int
    parent: int
    without: list[int]  # levels of the parent at which the column is absent


@dataclass(frozen=True)
class _Rules:
    rules: list[_Rule]

    def __call__(self, levels: Levels) -> Levels:
        found = levels.copy()
        for _ in self.rules:  # a parent may itself be absent, and its own parent
            for rule in self.rules:
                found[np.isin(found[:, rule.parent], rule.without), rule.column] = -1
        return found


def _rule(levels: Levels, column: int) -> _Rule | None:
    absent = levels[:, column] < 0
    for parent in map(int, np.argsort(levels.max(axis=0), kind="stable")):
        without, given = set(levels[absent, parent]), set(levels[~absent, parent])
        if parent != column and not without & given:
            return _Rule(column, parent, [int(level) for level in without])
    return None
