"""Which candidates are one and the same thing, spelled in different ways."""

from collections.abc import Callable, Hashable
from typing import Any

from .vectors import Rows, Vectors

Same = Callable[[dict[str, Any]], Hashable]


class Identity:
    """What was tried, by what it stands for; without `same`, every parameter set stands for itself."""

    def __init__(self, same: Same | None, vectors: Vectors) -> None:
        self._same, self._vectors = same, vectors
        self._known: dict[bytes, Hashable] = {}
        self._tried: set[Hashable] = set()

    def note(self, tried: Rows) -> None:
        """(t, d): nothing that stands for the same is new from now on."""
        if self._same is not None:
            for key, row in zip(self._vectors.keys(tried), tried, strict=True):
                self._tried.add(self._of(key, row))

    def takes(self, row: Rows) -> bool:
        """Whether it is new; it is not from now on."""
        if self._same is None:
            return True
        found = self._of(self._vectors.keys(row[None])[0], row)
        new = found not in self._tried
        self._tried.add(found)
        return new

    def _of(self, key: bytes, row: Rows) -> Hashable:
        assert self._same is not None
        if key not in self._known:
            self._known[key] = self._same(self._vectors.decode(row))
        return self._known[key]
