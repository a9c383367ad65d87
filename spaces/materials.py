"""What a trial has in hand for its passes: the subject, the teacher, and what must be left alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .subject import Array, Subject, example_inputs

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Teacher:
    """What the untouched model says of every training example, computed once for the whole search."""

    outputs: Array  # (n, ...)
    # Module path -> its output, pooled to a few positions: (n, channels, height, width), 16-bit floats.
    maps: Mapping[str, Array] = field(default_factory=dict)
    # Module path -> where its channels are strong: (n, 1, height, width), each example of length 1.
    attention: Mapping[str, Array] = field(default_factory=dict)


def to_arrays(teacher: Teacher) -> dict[str, Array]:
    """As named arrays; `from_arrays` is the way back."""
    return {"outputs": teacher.outputs, **{f"maps/{path}": x for path, x in teacher.maps.items()},
            **{f"attention/{path}": x for path, x in teacher.attention.items()}}


def from_arrays(arrays: Mapping[str, Array]) -> Teacher:
    parts: dict[str, dict[str, Array]] = {"outputs": {}, "maps": {}, "attention": {}}
    for name, array in arrays.items():
        kind, _, path = name.partition("/")
        parts[kind][path] = array
    return Teacher(parts["outputs"][""], parts["maps"], parts["attention"])


def _ignore(_: object) -> None:
    return None


@dataclass(frozen=True)
class Materials:
    """`on_step` is called between batches with the share done, 0-1; `note` keeps a remark on the trial."""

    subject: Subject
    seed: int = 0
    teacher: Teacher | None = None
    keep: tuple[str, ...] = ()  # paths of modules that no pass may change
    students: Mapping[str, "Callable[[], nn.Module]"] = field(default_factory=dict)
    on_step: Callable[[float], None] = _ignore
    note: Callable[[str], None] = _ignore

    @property
    def inputs(self) -> tuple[Array, ...]:
        """Two example inputs, each (2, ...)."""
        return example_inputs(self.subject)
