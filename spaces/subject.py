"""What is compressed: a trained model with its data, its loss and its metric."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..errors import SubjectError

if TYPE_CHECKING:  # what only measures a file need not wait for torch
    from torch import Tensor, nn

Array = NDArray[Any]
SplitName = Literal["train", "calibration", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "calibration", "validation", "test")


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled examples: one array per model input, and the targets, all of length n."""

    inputs: tuple[Array, ...]  # each (n, ...)
    targets: Array  # (n, ...)

    def __post_init__(self) -> None:
        lengths = [len(array) for array in (*self.inputs, self.targets)]
        if not self.inputs or min(lengths) == 0:
            raise SubjectError("a split is empty; it needs at least one example")
        if len(set(lengths)) != 1:
            raise SubjectError(f"inputs and targets of a split differ in length: {lengths}")

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, size: int) -> Iterator[Split]:
        """Consecutive parts of at most `size` examples."""
        for at in range(0, len(self), size):
            yield self.take(slice(at, at + size))

    def take(self, which: slice | NDArray[np.int64]) -> Split:
        return Split(tuple(array[which] for array in self.inputs), self.targets[which])


@runtime_checkable
class Subject(Protocol):
    """A trained model with everything needed to compress it and to judge the result.

    The search trains on `train`, calibrates on `calibration` and sees `validation`; the final
    front is scored once on `test`.
    """

    name: str

    def model(self) -> nn.Module:
        """A fresh copy of the trained model, in evaluation mode, on the CPU."""
        ...

    def split(self, name: SplitName) -> Split: ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The training loss of a batch, a scalar; outputs (batch, ...), targets (batch, ...)."""
        ...

    def soft_loss(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """How far the outputs are from the teacher's, a scalar on the scale of `loss`."""
        ...

    def score(self, outputs: Array, targets: Array) -> NDArray[np.float64]:
        """The metric of every example, (n,), each between 0 and 1; the metric is their mean."""
        ...


def example_inputs(subject: Subject, batch: int = 2) -> tuple[Array, ...]:
    """The first `batch` calibration examples, as the model takes them."""
    return subject.split("calibration").take(slice(0, batch)).inputs
