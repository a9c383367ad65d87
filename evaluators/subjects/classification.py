"""A classifier with arrays or DataLoaders: all that is needed for the usual case."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...errors import SubjectError
from ...spaces.subject import SPLITS, Array, Split, SplitName

Data = tuple[Any, Any] | Iterable[tuple[Any, Any]]


class Classification:
    """Top-1 accuracy and cross-entropy over integer labels.

    `model` is a trained module, or a function without arguments that builds one. Each split is a
    pair of arrays or tensors (inputs, labels), or a DataLoader of such pairs, which is read once
    into memory; several inputs are a tuple of arrays. Without `calibration`, the first 256 training
    examples serve. Raises SubjectError: empty split, lengths or label values that do not fit.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        train: Data,
        validation: Data,
        test: Data,
        calibration: Data | None = None,
        name: str | None = None,
    ) -> None:
        self._model = model
        self.name = name or getattr(model, "__name__", type(model).__name__)
        given = {"train": train, "validation": validation, "test": test}
        self._splits: Mapping[str, Split] = {key: _split(key, data) for key, data in given.items()}
        few = self._splits["train"].take(slice(0, 256))
        found = few if calibration is None else _split("calibration", calibration)
        self._splits = {**self._splits, "calibration": found}
        _check_shapes(self._splits)

    def model(self) -> nn.Module:
        built = copy.deepcopy(self._model) if isinstance(self._model, nn.Module) else self._model()
        if not isinstance(built, nn.Module):
            raise SubjectError(f"model must be a torch.nn.Module, got {type(built).__name__}")
        return built.cpu().eval()

    def split(self, name: SplitName) -> Split:
        return self._splits[name]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets)

    def soft_loss(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Kullback-Leibler divergence at the temperature, times its square (arXiv:1503.02531)."""
        ours = functional.log_softmax(outputs / temperature, dim=1)
        theirs = functional.log_softmax(teacher / temperature, dim=1)
        return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2

    def score(self, outputs: Array, targets: Array) -> NDArray[np.float64]:
        if np.isnan(outputs).any():
            return np.full(len(targets), np.nan)
        return np.asarray(outputs.argmax(1) == targets, np.float64)


def _split(name: str, data: Data) -> Split:
    pairs = [data] if isinstance(data, tuple) else [(x, y) for x, y in data]
    if not pairs:
        raise SubjectError(f"the {name} split is empty; it needs at least one example")
    columns = [(_inputs(x), _array(y)) for x, y in pairs]
    inputs = tuple(np.concatenate(parts) for parts in zip(*(x for x, _ in columns), strict=True))
    targets = np.concatenate([y for _, y in columns])
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise SubjectError(f"labels of the {name} split must be integers of shape (n,), "
                           f"got {targets.dtype} {targets.shape}")
    try:
        return Split(inputs, targets.astype(np.int64))
    except SubjectError as error:
        raise SubjectError(f"{name} split: {error}") from error


def _inputs(data: Any) -> tuple[Array, ...]:
    return tuple(map(_array, data)) if isinstance(data, tuple | list) else (_array(data),)


def _array(data: Any) -> Array:
    array = data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else np.asarray(data)
    wide: Array = array.astype(np.float32) if array.dtype == np.float64 else array
    return wide


def _check_shapes(splits: Mapping[str, Split]) -> None:
    want = [array.shape[1:] for array in splits["train"].inputs]
    for name in SPLITS:
        got = [array.shape[1:] for array in splits[name].inputs]
        if got != want:
            raise SubjectError(f"inputs of the {name} split have shape {got}, of the train split {want}")
