"""A figure with its unit, its spread, and what kind of evidence it is."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import MetricError
from ..hardware_profiles.backend import Evidence

Unit = Literal["fraction", "bytes", "ms", "mJ"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """`spread`: standard error of an accuracy, coefficient of variation of a latency ratio.

    `ratio` is to the untouched model, for a latency, where that runs on the device. `low` and `high`
    bound the 95 % interval. `unstable`: repeated and never settled, so it does not decide a budget.
    `calibrated` is false for a prediction that no measurement on the device stands behind.
    """

    value: float
    unit: Unit
    evidence: Evidence
    spread: float = 0.0
    n: int = 1
    ratio: float | None = None
    unstable: bool = False
    low: float | None = None
    high: float | None = None
    calibrated: bool = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise MetricError(f"the metric is {self.value}, it must be a finite number")

    @property
    def at_most(self) -> float:
        """What may be claimed: for what never settled, two spreads above the value."""
        return self.value * (1 + 2 * self.spread) if self.unstable else self.value

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what does not apply is left out."""
        plain = {key: value for key, value in asdict(self).items() if value is not None}
        if self.unit != "ms":
            del plain["unstable"], plain["calibrated"]
        return plain

    @staticmethod
    def from_json(plain: dict[str, Any]) -> "Measurement":
        return Measurement(**plain)
