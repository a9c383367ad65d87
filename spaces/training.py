"""The one training loop: recovery of a changed module, and tuning of a graph seen as a module.

AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with a one-cycle rate (Smith and Topin 2019,
arXiv:1708.07120). A loss that is not finite is no end: see `train_`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import TrainingError
from .materials import Materials

BATCH = 128
WARM_UP = 0.2  # share of the steps that the rate rises
WEIGHT_DECAY = 1e-2
ROLLBACKS = 2
RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # what the schedule reads and writes

Rows = NDArray[np.int64]
Extra = Callable[[Rows], Tensor]


@dataclass(frozen=True, slots=True)
class Settings:
    """`soft_weight` 0 trains on the labels alone, 1 on the teacher alone."""

    epochs: int
    learning_rate: float
    temperature: float
    soft_weight: float


class _Diverged(Exception):
    """Where: the epoch, counted from 0. Why: for people."""

    def __init__(self, epoch: int, why: str) -> None:
        self.epoch, self.why = epoch, why


def _nothing(_: float) -> None:
    return None


def train_(
    model: nn.Module,
    materials: Materials,
    settings: Settings,
    *,
    groups: Iterable[Mapping[str, Any]] | None = None,
    frozen: Iterable[nn.Module] = (),
    extra: Extra | None = None,
    after_step: Callable[[float], None] = _nothing,
) -> None:
    """Trains in place, deterministic for `materials.seed`; leaves the model in evaluation mode.

    `groups` are the optimiser's parameter groups, each with its own `lr` and `weight_decay` where they
    differ; by default every parameter of the model. `frozen` modules keep their weights and statistics.
    `extra(rows)` is one more term of the loss, asked for after the forward pass of those rows of the
    training split. `after_step` is called after every step of the optimiser with the share done, 0-1.

    When the loss or a weight is not finite, training goes on from the last finished epoch at half the
    rate, and `materials.note` says so. Raises TrainingError when that happens for the third time.
    """
    still = tuple(frozen)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = _Training(model, materials, settings, groups or [{"params": _moving(model, still)}], extra)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(materials.seed)
        model.train()
        for module in still:
            module.eval()
        training.run(after_step)
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model.eval()


def _moving(model: nn.Module, frozen: Iterable[nn.Module]) -> list[nn.Parameter]:
    still = {id(parameter) for module in frozen for parameter in module.parameters()}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in still]


class _Training:
    def __init__(
        self,
        model: nn.Module,
        materials: Materials,
        settings: Settings,
        groups: Iterable[Mapping[str, Any]],
        extra: Extra | None,
    ) -> None:
        self.model, self.materials, self.settings, self.extra = model, materials, settings, extra
        self.data = materials.subject.split("train")
        self.batches = math.ceil(len(self.data) / BATCH)
        self.steps = settings.epochs * self.batches
        self.optimiser = torch.optim.AdamW(
            [dict(group) for group in groups], settings.learning_rate, weight_decay=WEIGHT_DECAY)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, [group["lr"] for group in self.optimiser.param_groups],
            total_steps=self.steps, pct_start=WARM_UP)

    def run(self, after_step: Callable[[float], None]) -> None:
        order = np.random.default_rng(self.materials.seed)
        safe, epoch, left = self.snapshot(), 0, ROLLBACKS
        while epoch < self.settings.epochs:
            try:
                self.epoch(epoch, order.permutation(len(self.data)), after_step)
                epoch += 1
            except _Diverged as error:
                if not left:
                    raise TrainingError(f"training diverged again after {ROLLBACKS} rollbacks: {error.why} "
                                        f"in epoch {error.epoch + 1}") from None
                left -= 1
                self.roll_back_(safe, error)
            safe = self.snapshot()

    def epoch(self, epoch: int, shuffled: Rows, after_step: Callable[[float], None]) -> None:
        for i in range(self.batches):
            rows = shuffled[i * BATCH :][:BATCH]
            share = (epoch * self.batches + i + 1) / self.steps
            if len(rows) > 1:  # batch norm cannot train on one example
                self.descend(epoch, rows)
                after_step(share)
            self.schedule.step()
            self.materials.on_step(share)
        if broken := _broken(self.model):
            raise _Diverged(epoch, f"{broken} is not finite")

    def descend(self, epoch: int, rows: Rows) -> None:
        loss = self.loss(rows)
        if not torch.isfinite(loss).all():
            raise _Diverged(epoch, f"the loss is {loss.item()}")
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def loss(self, rows: Rows) -> Tensor:
        batch, weight, subject = self.data.take(rows), self.settings.soft_weight, self.materials.subject
        found = self.model(*(torch.from_numpy(array) for array in batch.inputs))
        outputs = found if isinstance(found, Tensor) else found[0]
        loss = torch.zeros(())
        if weight < 1:
            loss = loss + (1 - weight) * subject.loss(outputs, torch.from_numpy(batch.targets))
        if weight > 0:
            assert self.materials.teacher is not None
            teacher = torch.from_numpy(self.materials.teacher.outputs[rows])
            loss = loss + weight * subject.soft_loss(outputs, teacher, self.settings.temperature)
        return loss + self.extra(rows) if self.extra else loss

    def snapshot(self) -> tuple[Any, ...]:
        return deepcopy((self.model.state_dict(), self.optimiser.state_dict(), self.schedule.state_dict()))

    def roll_back_(self, safe: tuple[Any, ...], error: _Diverged) -> None:
        model, optimiser, schedule = safe
        self.model.load_state_dict(model)
        self.optimiser.load_state_dict(optimiser)
        self.schedule.load_state_dict(schedule)
        for group in self.optimiser.param_groups:
            group.update({name: group[name] / 2 for name in RATES})
        since = f"the end of epoch {error.epoch}" if error.epoch else "the start"
        self.materials.note(f"training epoch {error.epoch + 1}: {error.why}; rolled back to {since}, "
                            "went on at half the learning rate")


def _broken(model: nn.Module) -> str | None:
    """The first weight that is not finite, or statistic that is not a number (masks may be infinite)."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            return name
    return next((name for name, buffer in model.named_buffers() if torch.isnan(buffer).any()), None)
