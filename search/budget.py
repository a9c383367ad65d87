"""What the user allows: `2ms`, `100kB`, `50%` of the untouched model, or `3x` faster or smaller."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import BudgetError, shown
from ..evaluators.measurement import Measurement

_UNITS = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "size": {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024, "mib": 1024**2, "gib": 1024**3},
}
_UNITS["memory"] = _UNITS["size"]
_EXAMPLES = {"latency": "2ms, 50% or 3x", "size": "100kB, 25% or 4x", "memory": "256kB, 50% or 2x"}
NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
SMALLEST = 1e-12  # what is written; the inverse is the largest
MARGIN = 0.02  # a measurement noisier than this is not given more benefit of the doubt


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit: in ms or bytes, or (`relative`) as a share of the untouched model."""

    limit: float
    relative: bool
    text: str

    def resolved(self, untouched: float) -> float:
        """The limit in ms or bytes."""
        return self.limit * untouched if self.relative else self.limit


def parse(text: str | float | int, kind: str) -> Budget:
    """`kind` is latency, size or memory. Raises BudgetError when the text cannot be read."""
    match = re.fullmatch(rf"\s*({NUMBER}(?:e[+-]?[0-9]+)?)\s*([a-z%]*)\s*", str(text).lower())
    units = _UNITS[kind]
    value, unit = (float(match[1]), match[2]) if match else (math.nan, "")
    if not SMALLEST <= value <= 1 / SMALLEST or unit not in (*units, "%", "x"):
        raise BudgetError(f"{kind} budget {shown(text)} cannot be read; write for example {_EXAMPLES[kind]} "
                          f"(units: {', '.join(units)}, % of the untouched model, x for times better)")
    if unit in units:
        return Budget(value * units[unit], False, str(text))
    return Budget(value / 100 if unit == "%" else 1 / value, True, str(text))


def broken(limits: Mapping[str, float], metrics: Mapping[str, Measurement]) -> dict[str, float]:
    """Metric -> value over limit, minus 1, for each limit that the metrics are not shown to meet."""
    excess = {name: metrics[name].at_most / limit - 1 for name, limit in limits.items() if name in metrics}
    return {name: share for name, share in excess.items() if share > 0}


def refused(limits: Mapping[str, float], metrics: Mapping[str, Measurement]) -> dict[str, float]:
    """The same, before training is spent: no benefit of the doubt, and no verdict on noise.

    A latency must be under its limit by twice its spread (at most `MARGIN`), for the finished file
    is measured again; one that never settled is refused only when it is over by twice its spread.
    """
    over = {}
    for name, limit in limits.items():
        if name in metrics and (excess := _careful(metrics[name]) / limit - 1) > 0:
            over[name] = excess
    return over


def _careful(metric: Measurement) -> float:
    if metric.unit != "ms":
        return metric.value
    doubt = 2 * metric.spread
    return metric.value * (1 - min(doubt, 0.9) if metric.unstable else 1 + min(doubt, MARGIN))
