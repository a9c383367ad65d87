"""What a way of getting a latency must do, and what it finds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ...errors import MetricError
from ...hardware_profiles.profile import Calibration
from ...spaces.subject import Array

MOVED = 0.05  # the most by which the reference may differ before and after


@dataclass(frozen=True, slots=True)
class Reading:
    """What one way of looking at a file found.

    The ratio is to the reference file, None where the reference does not run there.
    """

    latency_ms: float
    reference_ms: float | None
    low_ms: float | None
    high_ms: float | None  # 95 % interval, None where nothing is known of it
    spread: float = 0.0  # coefficient of variation of the ratio
    pairs: int = 1
    settled: bool = True
    memory_bytes: float | None = None  # RAM where the device or its compiler told it
    flash_bytes: float | None = None
    power_mw: float | None = None
    notes: tuple[str, ...] = ()
    provider_share: Mapping[str, float] = field(default_factory=dict)  # of its nodes, where it is told
    shipped: bytes | None = None  # the file that runs there, where it is not the ONNX file itself

    def __post_init__(self) -> None:
        for name in ("latency_ms", "reference_ms"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise MetricError(f"{name} is {value}, it must be a finite number above 0")

    @property
    def ratio(self) -> float | None:
        return self.latency_ms / self.reference_ms if self.reference_ms else None


class Device(Protocol):
    """One way of getting the latency of a file on the machine of one profile."""

    exclusive: bool  # one measurement at a time, in an actor of its own; else computed by the worker itself

    def check(self) -> None:
        """Asked at the start of a run. Raises ConfigError: not reachable, or what is missing there."""
        ...

    def read(
        self, file: bytes, reference: bytes, inputs: tuple[Array, ...], attempts: tuple[int, ...]
    ) -> Reading:
        """The file against the reference, on inputs each (batch, ...).

        `attempts` is how thoroughly, attempt by attempt (see `latency.QUICK`). Raises CandidateError
        when the file cannot be measured: the search records that and goes on.
        """
        ...


def interval(latency_ms: float, spread: float) -> tuple[float, float]:
    """95 % interval of a latency whose coefficient of variation is `spread`."""
    return max(0.0, latency_ms * (1 - 1.96 * spread)), latency_ms * (1 + 1.96 * spread)


def outdated(fits: Iterable[Calibration], running: str) -> str:
    """The versions of the runtime that the fits are of, where it now runs another one; else empty."""
    known = {fit.runtime_version for fit in fits} - {""}
    if not running or running in known or known & set(running.split()):
        return ""
    return ", ".join(sorted(known))


def moved(before_ms: float, after_ms: float) -> str | None:
    """Why a measurement does not count, when the reference before and after it differs too much."""
    drift = after_ms / before_ms - 1
    if abs(drift) <= MOVED:
        return None
    return (f"the reference moved by {abs(drift):.1%}, from {before_ms:.4g} to {after_ms:.4g} ms "
            f"(at most {MOVED:.0%}): the device was warm, busy or throttled")
