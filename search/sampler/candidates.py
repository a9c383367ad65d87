"""The candidates that a proposal is chosen from: allowed, and not tried."""

from functools import cached_property

import numpy as np

from . import pool
from .activity import Activity
from .costs import Costs
from .history import History
from .vectors import Levels, Rows, Vectors

WIDE, NEAR = 2000, 1000  # from anywhere, and near the front
DRAWS = 8  # how many times as many are drawn where few are allowed

Table = tuple[Rows, Rows]  # candidates (n, d) and their costs (n, names)


class Exhausted(ValueError):
    """No candidate is left that is new and within the budgets."""


class Candidates:
    """`asked` says which parameters a trial asks for; with the same seed, the same candidates."""

    def __init__(self, vectors: Vectors, costs: Costs, asked: Activity, seed: int) -> None:
        self.vectors, self.costs, self.asked, self.seed = vectors, costs, asked, seed
        self._draws = 1

    def of(self, history: History, dice: np.random.Generator) -> Table:
        """Those near the front first. Raises Exhausted."""
        tried = set(self.vectors.keys(history.tried))
        rows, costs = self.anywhere
        new = np.array([key not in tried for key in self.vectors.keys(rows)], bool)
        near = self._allowed(self._distinct(self.asked(self._near(history, dice)), tried))
        found = np.vstack([near[0], rows[new]]), np.vstack([near[1], costs[new]])
        if not len(found[0]):
            raise Exhausted("no candidate that is new was found within the budgets")
        return found

    @cached_property
    def anywhere(self) -> Table:
        """From WIDE draws, or up to DRAWS times as many where few are allowed. Raises Exhausted."""
        dice, found = np.random.default_rng(self.seed), np.zeros((0, len(self.vectors.names)))
        for self._draws in range(1, DRAWS + 1):
            levels = self.asked(pool.anywhere(self.vectors.sizes, WIDE, dice))
            new = self._distinct(levels, set(self.vectors.keys(found)))
            found = np.vstack([found, self._allowed(new)[0]])
            if len(found) >= WIDE / 2 or pool.is_small(self.vectors.sizes):
                break
        if not len(found):
            limits = self.costs.budgets
            raise Exhausted(f"no candidate within the budgets {limits} in {self._draws * WIDE} drawn")
        return found, self.costs.of(found)

    def _near(self, history: History, dice: np.random.Generator) -> Levels:
        front = history.rows[history.front]
        if not len(front):
            return np.zeros((0, len(self.vectors.sizes)), np.int64)
        return pool.nearby(self.vectors.sizes, self.vectors.levels(front), NEAR * self._draws, dice)

    def _distinct(self, levels: Levels, tried: set[bytes]) -> Rows:
        rows = self.vectors.rows(levels)
        first = {key: i for i, key in reversed(list(enumerate(self.vectors.keys(rows))))}
        return rows[sorted(i for key, i in first.items() if key not in tried)]

    def _allowed(self, rows: Rows) -> Table:
        costs = self.costs.of(rows)
        legal = self.costs.legal(costs) if len(rows) else np.zeros(0, bool)
        return rows[legal], costs[legal]
