"""The parameter of which more is better and dearer, such as epochs: where to begin, where to judge."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .features import SAME
from .vectors import ABSENT, Rows


@dataclass(frozen=True)
class Fidelity:
    """Its column in a row of `Vectors`; None where a space has no such parameter."""

    column: int | None

    def begun(self, rows: Rows) -> Rows:
        """The same at the least of it: what a proposal asks for."""
        return self._at(rows, 0.0)

    def ended(self, rows: Rows) -> Rows:
        """The same at the most of it: what a proposal is worth, should it be gone on with."""
        return self._at(rows, 1.0)

    def is_begun(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether there could be more of it."""
        if self.column is None:
            return np.zeros(len(rows), bool)
        place = rows[:, self.column]
        return np.asarray((place != ABSENT) & (place < 1 - SAME))

    def _at(self, rows: Rows, place: float) -> Rows:
        if self.column is None:
            return rows
        found = rows.copy()
        found[:, self.column] = np.where(rows[:, self.column] == ABSENT, ABSENT, place)
        return found
