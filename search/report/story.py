"""What the page tells, as plain data: the report reads this and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...spaces.sensitivity import Sensitivity
from ..candidate import Candidate


@dataclass(frozen=True)
class Ended:
    """A trial that ended, `at_s` seconds after the first one started."""

    trial: int
    label: str
    at_s: float
    state: str
    reason: str
    candidate: Candidate | None


@dataclass(frozen=True)
class Story:
    """A run, finished or not."""

    path: str
    profiles: Sequence[str]
    labels: Mapping[str, str]  # profile -> what kind of figure its latencies are
    limits: Mapping[str, float]
    max_drop: float | None
    untouched: Candidate
    ended: Sequence[Ended]
    fronts: Mapping[str, Sequence[Candidate]]
    best_for_all: Candidate | None
    trained: int
    saved: float  # share of the trials' time, 0-1, that need not be spent on trainings again
    sensitivity: Sensitivity | None = None

    def with_state(self, state: str) -> list[Ended]:
        return [end for end in self.ended if end.state == state]

    @property
    def scored(self) -> list[Candidate]:
        return [end.candidate for end in self.ended if end.candidate]
