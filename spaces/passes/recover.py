"""Recovery training after a cut, taught by the untouched model.

Soft targets: Hinton et al. 2015, arXiv:1503.02531. Transfer of features and attention: see
`teaching.py`. What the teacher says is computed once for the whole search and handed in.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from ...errors import GateError
from ..keep import kept
from ..knob import Choice, FloatRange, IntRange, Knob, Value
from ..teaching import ATTENTION, FEATURES, NONE, lesson
from ..training import Settings, train_
from ._base import Materials, Scope, TrainingPass
from .sparsify import thin_

LONG, LONGEST = 8, 32  # epochs after a cut; of a student that starts from nothing


@dataclass(frozen=True, slots=True)
class Recover:
    """AdamW with a one-cycle rate; `soft_weight` 0 trains on the labels alone, 1 on the teacher.

    `transfer` adds `transfer_weight` times the distance from the teacher's "features" or "attention".
    `after` are numbers of epochs at which earlier legs of the same training ended: each leg goes on from
    the weights of the one before, with a cycle of the rate and an optimiser of its own.
    """

    epochs: int
    learning_rate: float
    temperature: float
    soft_weight: float
    transfer: str = NONE
    transfer_weight: float = 1.0
    after: tuple[int, ...] = ()

    @property
    def settings(self) -> Settings:
        """Of the last leg."""
        epochs = self.epochs - max(self.after, default=0)
        return Settings(epochs, self.learning_rate, self.temperature, self.soft_weight)

    @property
    def legs(self) -> tuple["Recover", ...]:
        """The trainings it consists of, each after those before it."""
        ends = (*self.after, self.epochs)
        return tuple(replace(self, epochs=end, after=ends[:i]) for i, end in enumerate(ends))

    def __str__(self) -> str:
        soft = f"T {self.temperature:g} x {self.soft_weight:g}" if self.soft_weight else "labels only"
        more = "" if self.transfer == NONE else f", {self.transfer} x {self.transfer_weight:g}"
        legs = "".join(f"{end}+" for end in self.after)
        return f"recover {legs}{self.epochs} ep {self.learning_rate:.2g} ({soft}{more})"


class RecoverPass(TrainingPass):
    """`Recover`, see the module."""

    name = "recover"
    does = "trains the model on labels, and on soft targets, features or attention of the untouched one"
    paper = ("Knowledge distillation, arXiv:1503.02531; FitNets, arXiv:1412.6550; "
             "attention transfer, arXiv:1612.03928")
    ability = None
    step = Recover
    only_if: ClassVar[Mapping[str, tuple[str, tuple[Value, ...]]]] = {
        "transfer_weight": ("transfer", (FEATURES, ATTENTION))}

    def refused(self, scope: Scope) -> str | None:
        return None

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        kinds = (NONE, FEATURES, ATTENTION) if scope.taps else (NONE,)
        return {
            "epochs": _epochs(scope),
            "learning_rate": FloatRange(3e-4, 1e-2, log=True),
            "temperature": FloatRange(1.0, 8.0, step=1.0),
            "soft_weight": FloatRange(0.0, 1.0, step=0.1),
            "transfer": Choice(kinds),
            **({"transfer_weight": FloatRange(0.1, 10.0, log=True)} if scope.taps else {}),
        }

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        """For what was cut; where there are students, also for one that was never trained."""
        short: dict[str, Value] = {"epochs": 3, "learning_rate": 3e-3, "temperature": 4.0,
                                   "soft_weight": 0.8, "transfer": NONE}
        return (short, {**short, "epochs": 16}) if scope.students else (short,)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Recover | None:
        epochs = int(values["epochs"])
        if scope.rungs:
            epochs = nearest_rung(scope.rungs, epochs)
        step = Recover(epochs, float(values["learning_rate"]),
                       float(values["temperature"]), float(values["soft_weight"]),
                       str(values.get("transfer", NONE)), float(values.get("transfer_weight", 1.0)),
                       tuple(rung for rung in scope.rungs if 0 < rung < epochs))
        return step if epochs else None

    def legs(self, step: Recover) -> tuple[Recover, ...]:
        return step.legs

    def train(self, step: Recover, model: nn.Module, materials: Materials) -> nn.Module:
        """A copy, trained for the last leg, in evaluation mode.

        Raises TrainingError when it keeps diverging, GateError when nothing was trained or transferred.
        """
        student = copy.deepcopy(model)
        if step.after:  # each leg sees the examples in an order of its own
            materials = replace(materials, seed=materials.seed + step.after[-1])
        still = [module for path, module in student.named_modules() if kept(path, materials.keep)]
        thinner = (lambda _: thin_(student, 1.0)) if step.after else partial(thin_, student)
        if step.transfer == NONE:
            train_(student, materials, step.settings, frozen=still, after_step=thinner)
        else:
            with lesson(student, step.transfer, step.transfer_weight, materials) as pupil:
                train_(pupil, materials, step.settings, frozen=still, extra=pupil.term, after_step=thinner)
                pupil.check()
        thin_(student, 1.0)  # the last batch may have been too small to train on
        check(model, student, materials.keep)
        return student


def nearest_rung(rungs: tuple[int, ...], epochs: int) -> int:
    """The lower of two that are as near."""
    return min(rungs, key=lambda rung: (abs(rung - epochs), rung))


def _epochs(scope: Scope) -> IntRange:
    if scope.rungs:
        return IntRange(scope.rungs[0], scope.rungs[-1], log=scope.rungs[0] > 0)
    return IntRange(1, LONGEST if scope.students else LONG, log=True)


def check(before: nn.Module, after: nn.Module, keep: tuple[str, ...]) -> None:
    """Raises GateError unless the same weights are there, changed by training but for the kept ones."""
    was, now = before.state_dict(), after.state_dict()
    if {name: value.shape for name, value in was.items()} != {name: v.shape for name, v in now.items()}:
        raise GateError("recovery changed the weights' names or shapes; it may only train them")
    changed = {name for name in was if not torch.equal(was[name], now[name])}
    if not changed & {name for name, _ in before.named_parameters()}:
        raise GateError("recovery changed no weight")
    if wrong := sorted(name for name in changed if kept(name, keep)):
        raise GateError(f"recovery changed what is kept: {', '.join(wrong[:3])}")
