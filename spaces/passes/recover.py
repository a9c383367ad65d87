"""Recovery training after a cut, taught by the untouched model.

Soft targets: Hinton et al. 2015, arXiv:1503.02531. The teacher's outputs are computed once for the
whole search and handed in; they are never computed here.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import TrainingError
from ..knob import FloatRange, IntRange, Knob, Value
from ..subject import Array, Split, Subject
from ._base import Materials, Scope, TrainingPass

BATCH = 128
WARM_UP = 0.2  # share of the steps that the rate rises
WEIGHT_DECAY = 1e-2


@dataclass(frozen=True, slots=True)
class Recover:
    """AdamW with a one-cycle rate; `soft_weight` 0 trains on the labels alone, 1 on the teacher."""

    epochs: int
    learning_rate: float
    temperature: float
    soft_weight: float

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
        """A trained copy, in evaluation mode. Raises TrainingError when the loss is not finite."""
        subject, seed, on_step = materials.subject, materials.seed, materials.on_step
        assert materials.teacher is not None
        teacher = materials.teacher.outputs
        data = subject.split("train")
        batches = math.ceil(len(data) / BATCH)
        student = copy.deepcopy(model)
        student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = torch.optim.AdamW(student.parameters(), step.learning_rate, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, step.learning_rate, total_steps=step.epochs * batches, pct_start=WARM_UP)
        order = np.random.default_rng(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student.train()
            for at in range(step.epochs * batches):
                if at % batches == 0:
                    shuffled = order.permutation(len(data))
                rows = shuffled[at % batches * BATCH :][:BATCH]
                if len(rows) > 1:  # batch norm cannot train on one example
                    _descend(step, student, subject, data.take(rows), teacher[rows], optimiser)
                schedule.step()
                on_step((at + 1) / (step.epochs * batches))
        student.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return student.eval()


def _descend(
    step: Recover,
    student: nn.Module,
    subject: Subject,
    batch: Split,
    teacher: Array,
    optimiser: torch.optim.Optimizer,
) -> None:
    outputs = student(*(torch.from_numpy(array) for array in batch.inputs))
    loss = torch.zeros(())
    if step.soft_weight < 1:
        loss = loss + (1 - step.soft_weight) * subject.loss(outputs, torch.from_numpy(batch.targets))
    if step.soft_weight > 0:
        soft = subject.soft_loss(outputs, torch.from_numpy(teacher), step.temperature)
        loss = loss + step.soft_weight * soft
    _check(loss)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _check(loss: Tensor) -> None:
    if not torch.isfinite(loss).all():
        raise TrainingError(f"recovery diverged: the loss is {loss.item()}")
