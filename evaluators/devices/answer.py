"""What a command on a device says of a file: one JSON object, checked before anything is made of it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import MetricError

REMARKS = ("runtime", "governor", "temperature_c")  # the state of the device, kept as notes


@dataclass(frozen=True, slots=True)
class Answer:
    """All but the latency is there only where the command tells it."""

    latency_ms: float
    spread: float  # coefficient of variation
    runs: int
    runtime: str
    provider_share: Mapping[str, float] | None  # provider -> share of the nodes
    sha256: str | None  # of the file it ran
    memory_bytes: float | None
    flash_bytes: float | None
    power_mw: float | None
    remarks: tuple[str, ...]

    def share(self, provider: str) -> float | None:
        """Share of the nodes that the provider ran, where it is told."""
        return None if self.provider_share is None else self.provider_share.get(provider, 0.0)


def parse(output: str) -> Answer:
    """Raises MetricError: no JSON object, no latency, or a number that is none."""
    told = last_object(output)
    latency_ms = _number("latency_ms", told)
    if not latency_ms:
        raise MetricError(f"the command says latency_ms is {told.get('latency_ms')!r}, it must be above 0")
    return Answer(
        latency_ms, _number("spread", told) or 0.0, int(_number("runs", told) or 1),
        str(told.get("runtime") or "")[:100], _shares(told.get("provider_share")), _text("sha256", told),
        _number("memory_bytes", told), _number("flash_bytes", told), _number("power_mw", told),
        tuple(f"{name}: {str(told[name])[:100]}" for name in REMARKS if told.get(name)))


def last_object(output: str) -> dict[str, Any]:
    """The JSON object on the last line that is one; programs talk before they answer."""
    for line in reversed(output.splitlines()):
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict):
            return told
    raise MetricError(f"the command printed no JSON object but: {output.strip()[:300] or 'nothing'}")


def _number(name: str, told: Mapping[str, Any]) -> float | None:
    value = told.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise MetricError(f"the command says {name} is {value!r}, it must be a finite number, 0 or above")
    return float(value)


def _shares(told: object) -> Mapping[str, float] | None:
    if not isinstance(told, dict):
        return None
    return {str(name): _number(name, told) or 0.0 for name in told}


def _text(name: str, told: Mapping[str, Any]) -> str | None:
    return str(told[name]) if told.get(name) else None
