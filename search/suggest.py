"""Knobs <-> Optuna: the only file that knows both."""

from collections.abc import Collection, Mapping
from math import prod
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ..spaces.knob import Choice, IntRange, Knob, Value
from ..spaces.passes import PASSES
from ..spaces.space import Space, Values
from .sampler import FrontSampler


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


def sampler(space: Space, objectives: Mapping[str, str], seed: int) -> FrontSampler:
    """Over the whole space; what a recipe is expected to leave of the model is known beforehand."""
    def active(values: Values) -> Collection[str]:
        return space.walk(lambda name, knob: values[name])

    def left(values: Mapping[str, Any]) -> dict[str, float]:
        chosen = space.walk(lambda name, knob: values[name])
        shares = [PASSES[name].leaves(_own(name, chosen), space.scope) for name in space.spelled(chosen)]
        return {"work": prod(share.work for share in shares), "bytes": prod(share.bytes for share in shares)}

    distributions = {name: distribution(knob) for name, knob in space.knobs.items()}
    return FrontSampler(distributions, objectives, left, seed=seed, active=active)


def _own(technique: str, values: Values) -> Values:
    return {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{technique}.")}
