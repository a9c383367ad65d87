"""Knobs <-> Optuna: the only file that knows both, and who proposes."""

import warnings
from collections.abc import Mapping
from math import prod
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ..spaces.knob import Choice, IntRange, Knob, Value
from ..spaces.passes import PASSES
from ..spaces.space import EPOCHS, Space, Values, own
from .config import RunConfig
from .sampler import FrontSampler
from .study import objectives

LONG = 1000  # trials beyond which TPE takes longer than small trials do
AT_ONCE = 4  # one proposal in so many workers is made without having seen those before it


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


def sampler(space: Space, config: RunConfig, workers: int = 1) -> optuna.samplers.BaseSampler:
    """The one that the run file asks for; FrontSampler where a run is too long for TPE."""
    fidelity = EPOCHS if config.search.rungs and EPOCHS in space.knobs else None
    if config.search.sampler == "front" or config.search.trials > LONG:
        batch = max(1, workers // AT_ONCE)
        return front(space, dict(objectives(config)), config.search.seed, fidelity, batch)
    chosen = tpe(config.search.seed)
    if fidelity is None:
        return chosen
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.PartialFixedSampler({fidelity: config.search.rungs[0]}, chosen)


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True,
                                          n_startup_trials=20, seed=seed)


def front(
    space: Space, objectives: Mapping[str, str], seed: int, fidelity: str | None = None, batch: int = 1
) -> FrontSampler:
    """Over the whole space; what a recipe is expected to leave of the model is known beforehand."""

    deciding, known = space.deciding, dict[tuple[Value, ...], frozenset[str]]()

    def active(values: Mapping[str, Any]) -> frozenset[str]:
        key = tuple(values[name] for name in deciding)
        if key not in known:
            known[key] = frozenset(space.walk(lambda name, knob: values[name]))
        return known[key]

    def left(values: Mapping[str, Any]) -> dict[str, float]:
        asked = active(values)
        chosen = {name: value for name, value in values.items() if name in asked}
        shares = [PASSES[name].leaves(own(name, chosen), space.scope) for name in space.spelled(chosen)]
        return {"work": prod(share.work for share in shares), "bytes": prod(share.bytes for share in shares)}

    distributions = {name: distribution(knob) for name, knob in space.knobs.items()}
    return FrontSampler(distributions, objectives, left, seed=seed, active=active,
                        switches=deciding, fidelity=fidelity, batch=batch,
                        same=lambda values: space.decode(values).digest)
