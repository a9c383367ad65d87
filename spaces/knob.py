"""What can be turned: a choice, a whole number or a real one. Knows no sampler."""

from dataclasses import dataclass
from math import floor, isclose
from typing import Any, Self

from ..errors import ConfigError

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Choice:
    """Unordered options. What has an order is a range, never a choice."""

    options: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise ConfigError(f"a choice needs distinct options, got {list(self.options)}")

    def __contains__(self, value: object) -> bool:
        return any(value == option and type(value) is type(option) for option in self.options)

    def nearest(self, value: Value) -> Value:
        return value if value in self else self.options[0]

    def narrowed(self, wish: object) -> "Choice":
        """The subset that `wish` (one option or a list of them) names."""
        options = tuple(wish) if isinstance(wish, list) else (wish,)
        for option in options:
            if option not in self:
                raise ConfigError(f"got {option!r}, allowed: {_listed(self.options)}")
        return Choice(tuple(option for option in self.options if option in options))


@dataclass(frozen=True, slots=True)
class _Range:
    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if self.low > self.high or (self.step is not None and self.step <= 0):
            raise ConfigError(f"a range needs low <= high and step > 0, got {self}")

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        inside = self.low - 1e-9 <= value <= self.high + 1e-9
        return inside and (self.step is None or isclose(value, self._snap(value), abs_tol=1e-9))

    def nearest(self, value: Value) -> float:
        return self._snap(min(max(float(value), self.low), self.high))

    def narrowed(self, wish: Any) -> Self:
        """The part between the two numbers of `wish`; one number alone fixes the knob."""
        low, high = wish if isinstance(wish, list) and len(wish) == 2 else (wish, wish)
        if low not in self or high not in self:
            step = f" in steps of {self.step}" if self.step else ""
            raise ConfigError(f"got {wish!r}, allowed: [low, high] within {self.low}..{self.high}{step}")
        return type(self)(self._cast(low), self._cast(high), self.step, self.log)

    def _snap(self, value: float) -> float:
        if self.step is None:
            return self._cast(value)
        steps = floor((value - self.low) / self.step + 0.5)
        return self._cast(min(self.low + steps * self.step, self.high))

    def _cast(self, value: float) -> float:
        return round(float(value), 10)


@dataclass(frozen=True, slots=True)
class IntRange(_Range):
    """Whole numbers from `low` to `high`, both included."""

    def _cast(self, value: float) -> int:
        return int(value)


@dataclass(frozen=True, slots=True)
class FloatRange(_Range):
    """Real numbers from `low` to `high`, both included."""


Knob = Choice | IntRange | FloatRange


def _listed(options: tuple[Value, ...]) -> str:
    return ", ".join(str(option).lower() if isinstance(option, bool) else str(option) for option in options)
