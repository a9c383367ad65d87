"""Hypothesis over the mutations: what it shrinks are the choices."""

from typing import Any

from hypothesis import strategies as st
from mutations import mutated


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> bytes:
    """An example of that kind with one to a few damages."""

    def pick(options: Any) -> Any:
        return options[draw(st.integers(0, len(options) - 1))]

    return mutated(kind, pick)
