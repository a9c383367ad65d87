"""Recovery training after a cut, taught by the untouched model.

Soft targets: Hinton et al. 2015, arXiv:1503.02531. The teacher's outputs are computed once for the
whole search and handed in; they are never computed here.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ..keep import kept
from ..knob import FloatRange, IntRange, Knob, Value
from ..training import Settings, train_
from ._base import Materials, Scope, TrainingPass


@dataclass(frozen=True, slots=True)
class Recover:
    """AdamW with a one-cycle rate; `soft_weight` 0 trains on the labels alone, 1 on the teacher."""

    epochs: int
    learning_rate: float
    temperature: float
    soft_weight: float

    @property
    def settings(self) -> Settings:
        return Settings(self.epochs, self.learning_rate, self.temperature, self.soft_weight)

    def __str__(self) -> str:
        soft = f"T {self.temperature:g} x {self.soft_weight:g}" if self.soft_weight else "labels only"
        return f"recover {self.epochs} ep {self.learning_rate:.2g} ({soft})"


class RecoverPass(TrainingPass):
    """`Recover`, see the module."""

    name = "recover"
    does = "trains the pruned model on labels and on the untouched model's soft targets"
    paper = "Knowledge distillation, arXiv:1503.02531"
    ability = None
    step = Recover

    def refused(self, scope: Scope) -> str | None:
        return None

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {
            "epochs": IntRange(1, 8, log=True),
            "learning_rate": FloatRange(3e-4, 1e-2, log=True),
            "temperature": FloatRange(1.0, 8.0, step=1.0),
            "soft_weight": FloatRange(0.0, 1.0, step=0.1),
        }

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        return ({"epochs": 3, "learning_rate": 3e-3, "temperature": 4.0, "soft_weight": 0.8},)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Recover:
        return Recover(int(values["epochs"]), float(values["learning_rate"]),
                       float(values["temperature"]), float(values["soft_weight"]))

    def train(self, step: Recover, model: nn.Module, materials: Materials) -> nn.Module:
        """A trained copy, in evaluation mode. Raises TrainingError when it keeps diverging."""
        student = copy.deepcopy(model)
        still = [module for path, module in student.named_modules() if kept(path, materials.keep)]
        train_(student, materials, step.settings, frozen=still)
        return student
