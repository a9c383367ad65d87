"""Hypothesis over the mutations: it draws, and shrinks, the choices that they ask for."""

from typing import Any

from hypothesis import strategies as st
from mutations import mutated

CHOICES = 96  # of one case, two bytes each; after them the first option is taken


def damaged(kind: str) -> st.SearchStrategy[bytes]:
    """An example of that kind with one to a few damages."""
    return st.binary(min_size=2 * CHOICES, max_size=2 * CHOICES).map(lambda drawn: _chosen(kind, drawn))


def _chosen(kind: str, drawn: bytes) -> bytes:
    left = iter(range(0, len(drawn), 2))

    def pick(options: Any) -> Any:
        at = next(left, None)
        return options[0 if at is None else int.from_bytes(drawn[at : at + 2], "big") % len(options)]

    return mutated(kind, pick)
