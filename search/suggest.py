"""Knobs <-> Optuna: the only file that knows both."""

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ..spaces.knob import Choice, IntRange, Knob, Value
from ..spaces.space import Space, Values


def distribution(knob: Knob) -> optuna.distributions.BaseDistribution:
    """Ordinals stay ordinal; only a choice becomes a category."""
    if isinstance(knob, Choice):
        return CategoricalDistribution(knob.options)
    if isinstance(knob, IntRange):
        return IntDistribution(int(knob.low), int(knob.high), knob.log, int(knob.step or 1))
    return FloatDistribution(knob.low, knob.high, knob.log, knob.step)


def suggest(trial: optuna.Trial, space: Space) -> Values:
    """The trial's value for every knob that is active."""

    def pick(name: str, knob: Knob) -> Value:
        value: Value = trial._suggest(name, distribution(knob))
        return value if isinstance(knob, Choice) else knob.nearest(value)

    return space.walk(pick)
