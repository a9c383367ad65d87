"""The candidates that a proposal is chosen from: allowed, and not tried."""

import numpy as np

from . import pool
from .activity import Activity
from .costs import Costs
from .fidelity import Fidelity
from .history import History
from .vectors import Levels, Rows, Vectors

WIDE, NEAR = 2000, 1000  # from anywhere, and near the front
DRAWS = 8  # how many times as many are drawn where few are allowed

Table = tuple[Rows, Rows]  # candidates (n, d) and their costs (n, names)


class Exhausted(ValueError):
    """No candidate is left that is new and within the budgets."""


class Candidates:
    """`asked` says which parameters a trial asks for; with the same seed, the same candidates.

    `anywhere` are those that are looked at for every proposal. Raises Exhausted: none is allowed.
    """

    def __init__(
        self, vectors: Vectors, costs: Costs, asked: Activity, fidelity: Fidelity, seed: int
    ) -> None:
        self.vectors, self.costs, self.asked, self.fidelity = vectors, costs, asked, fidelity
        self.anywhere, self._draws = self._drawn(np.random.default_rng(seed))
        self._keys = vectors.keys(self.anywhere[0])

    def of(self, history: History, dice: np.random.Generator) -> Table:
        """Those near the front first. Raises Exhausted."""
        tried = set(self.vectors.keys(self.fidelity.begun(history.tried)))
        rows, costs = self.anywhere
        new = np.array([key not in tried for key in self._keys], bool)
        near = self._allowed(self._distinct(self.asked(self._near(history, dice)), tried))
        found = np.vstack([near[0], rows[new]]), np.vstack([near[1], costs[new]])
        if not len(found[0]):
            raise Exhausted("no candidate that is new was found within the budgets")
        return found

    def _drawn(self, dice: np.random.Generator) -> tuple[Table, int]:
        """From WIDE draws, or up to DRAWS times as many where few are allowed; and how many times."""
        found, costs = self._allowed(self._distinct(self._draw(dice), set()))
        draws = 1
        while len(found) < WIDE / 2 and draws < DRAWS and not pool.is_small(self.vectors.sizes):
            new = self._allowed(self._distinct(self._draw(dice), set(self.vectors.keys(found))))
            found, costs, draws = np.vstack([found, new[0]]), np.vstack([costs, new[1]]), draws + 1
        if not len(found):
            raise Exhausted(f"no candidate within the budgets {self.costs.budgets} in {draws * WIDE} drawn")
        return (found, costs), draws

    def _draw(self, dice: np.random.Generator) -> Levels:
        return self.asked(pool.anywhere(self.vectors.sizes, WIDE, dice))

    def _near(self, history: History, dice: np.random.Generator) -> Levels:
        front = history.rows[history.front]
        if not len(front):
            return np.zeros((0, len(self.vectors.sizes)), np.int64)
        return pool.nearby(self.vectors.sizes, self.vectors.levels(front), NEAR * self._draws, dice)

    def _distinct(self, levels: Levels, tried: set[bytes]) -> Rows:
        rows = self.fidelity.begun(self.vectors.rows(levels))
        first = {key: i for i, key in reversed(list(enumerate(self.vectors.keys(rows))))}
        return rows[sorted(i for key, i in first.items() if key not in tried)]

    def _allowed(self, rows: Rows) -> Table:
        costs = self.costs.of(rows)
        legal = self.costs.legal(costs) if len(rows) else np.zeros(0, bool)
        return rows[legal], costs[legal]
