"""What crosses processes and what a run keeps of it: plain values, so that readers load no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import RunError

State = Literal["complete", "refused", "failed"]
Report = Callable[[str], None]  # what a task is doing now


@dataclass(frozen=True, slots=True)
class Note:
    """What a running task last said of itself."""

    doing: str
    node: str
    pid: int
    node_id: str = ""


@dataclass(frozen=True)
class Untouched:
    """The figures of the untouched model that a run keeps for good."""

    sha256: str
    size_bytes: int
    accuracy: float  # on the validation split
    latency_ms: Mapping[str, float]  # by profile, where it runs
    memory_bytes: int  # peak of its activations
    absent: Mapping[str, str] = field(default_factory=dict)  # profile -> why it does not run there


@dataclass(frozen=True)
class Job:
    """One recipe to score.

    `trained`: sha256 of the float file its prefix was trained to in this run, and how long that took.
    `file`: sha256 of the finished file, where another run has made it.
    """

    trial: int
    recipe: str
    trained: str | None = None
    trained_s: float = 0.0
    file: str | None = None
    attempt: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a job; plain values all through, so that it can be stored."""

    state: State
    reason: str = ""
    sha256: str = ""
    trained: str = ""  # sha256 of the float file, where this job trained it or found it in the cache
    metrics: dict[str, Any] = field(default_factory=dict)
    drop: dict[str, Any] = field(default_factory=dict)
    broken: dict[str, float] = field(default_factory=dict)  # metric -> share over its limit
    size_only: dict[str, list[str]] = field(default_factory=dict)  # profile -> techniques
    absent: dict[str, str] = field(default_factory=dict)  # profile -> why it has no figure there
    shipped: dict[str, str] = field(default_factory=dict)  # profile -> file that runs there, if another
    remarks: dict[str, list[str]] = field(default_factory=dict)  # profile -> what its device said
    # profile -> provider -> share of the file's nodes that it ran there
    providers: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what passes had to say
    train_s: float = 0.0
    trained_s: float = 0.0  # what `trained` took, here or where it was found
    saved_s: float = 0.0  # what was not trained again: another trial, or an earlier run, had done it
    node: str = ""
    pid: int = 0
    began: float = 0.0  # when the worker took it up, seconds since 1970

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def keep(path: Path, text: str) -> None:
    """As a file that is whole at any moment. Raises RunError: it cannot be written."""
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(text)
        partial.rename(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}") from error
