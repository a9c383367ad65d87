"""A figure with its unit, its spread, and what kind of evidence it is."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import MetricError
from ..hardware_profiles.backend import Evidence

Unit = Literal["fraction", "bytes", "ms"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """`spread`: standard error of an accuracy, coefficient of variation of a latency ratio.

    `ratio` is to the untouched model, for a latency. `unstable`: repeated and never settled, so
    it does not decide a budget.
    """

    value: float
    unit: Unit
    evidence: Evidence
    spread: float = 0.0
    n: int = 1
    ratio: float | None = None
    unstable: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise MetricError(f"the metric is {self.value}, it must be a finite number")

    @property
    def at_most(self) -> float:
        """What may be claimed: for what never settled, two spreads above the value."""
        return self.value * (1 + 2 * self.spread) if self.unstable else self.value

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `ratio` and `unstable` only for latencies."""
        plain = asdict(self)
        if self.ratio is None:
            del plain["ratio"], plain["unstable"]
        return plain

    @staticmethod
    def from_json(plain: dict[str, Any]) -> "Measurement":
        return Measurement(**plain)
