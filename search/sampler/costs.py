"""What is known of a candidate before it is evaluated: asked once, kept, and held against the budgets."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .vectors import ABSENT, Rows, Vectors

KEPT = 20_000  # candidates whose cost is remembered

Cost = Callable[[Mapping[str, Any]], Mapping[str, float]]


class Costs:
    """`cost` by rows. A parameter that a candidate does not have is given as the first of its values."""

    def __init__(self, cost: Cost, vectors: Vectors, budgets: Mapping[str, float]) -> None:
        self._cost, self._vectors, self.budgets = cost, vectors, budgets
        self._known: dict[bytes, Rows] = {}
        self._names: tuple[str, ...] | None = None

    def of(self, rows: Rows) -> Rows:
        """(n, names). Raises ValueError: names that change, a budget without its cost, a nan."""
        keys = self._vectors.keys(rows)
        if len(self._known) > KEPT:
            self._known.clear()
        for row, key in zip(rows, keys, strict=True):
            if key not in self._known:
                self._known[key] = self._ask(row)
        found = [self._known[key] for key in keys]
        return np.array(found, float).reshape(len(rows), len(self.names))

    @property
    def names(self) -> tuple[str, ...]:
        """Known after the first question; none where nothing is known beforehand."""
        return self._names or ()

    def column(self, name: str) -> int:
        return self.names.index(name)

    def legal(self, table: Rows) -> NDArray[np.bool_]:
        """Finite, and within every budget."""
        within = np.asarray(np.isfinite(table).all(axis=1))
        for name, limit in self.budgets.items():
            within &= table[:, self.column(name)] <= limit
        return within

    def _ask(self, row: Rows) -> Rows:
        found = self._cost(self._vectors.decode(np.where(row == ABSENT, 0.0, row)))
        if self._names is None:
            self._names = self._checked(tuple(found))
        if set(found) != set(self.names):
            raise ValueError(f"cost gave {sorted(found)}, before it gave {sorted(self.names)}")
        values = np.array([found[name] for name in self.names], float)
        if np.isnan(values).any():
            raise ValueError(f"cost gave a nan: {dict(found)}; inf stands for what is not allowed")
        return values

    def _checked(self, names: tuple[str, ...]) -> tuple[str, ...]:
        missing = sorted(set(self.budgets) - set(names))
        if missing:
            raise ValueError(f"budgets on {missing}, but cost gives {sorted(names)}")
        return names
