"""Which parameters a trial asks for: told by the user, or learned from the trials."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from .vectors import Levels, Params, Vectors

Activity = Callable[[Levels], Levels]  # levels -> the same with -1 where nothing would be asked
Active = Callable[[Params], Collection[str]]


def told(active: Active, vectors: Vectors) -> Activity:
    def activity(levels: Levels) -> Levels:
        asked = [active(vectors.decode(row)) for row in vectors.rows(levels)]
        masks = [[name in names for name in vectors.names] for names in asked]
        return np.where(np.array(masks, bool).reshape(levels.shape), levels, -1)

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
