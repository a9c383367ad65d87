"""Transfer of what lies between input and output: what is remembered of the teacher, and the lesson.

Features: the student's features, through a trained linear map that is dropped afterwards, are to be
the teacher's (FitNets, Romero et al. 2015, arXiv:1412.6550). Attention: the student is to look where
the teacher looks (Zagoruyko and Komodakis 2017, arXiv:1612.03928). The teacher runs once for the whole
search; trials read what was remembered.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..errors import GateError
from .materials import Materials, Teacher
from .subject import Array, Split
from .taps import listening, matched, taps

NONE, FEATURES, ATTENTION = "none", "features", "attention"
BATCH = 128
SIDE = 4  # of remembered features, at most: 32 bytes an example and channel
ATTENTION_SIDE = 8  # of remembered attention, at most: 128 bytes an example and tap
LARGEST = 256 * 2**20  # bytes of remembered features; above it they are pooled further
HALF = float(np.finfo(np.float16).max)

Maps = dict[str, Array]


def remembered(
    model: nn.Module, data: Split, paths: Collection[str] = (), kinds: Collection[str] = ()
) -> Teacher:
    """What the model says of every example, in one forward pass; only the `kinds` asked for of each tap.

    Features take 32 bytes an example and channel, pooled further where that would be more than
    `LARGEST`; attention takes 128 bytes an example and tap. The outputs are 32-bit floats.
    """
    outputs: list[Array] = []
    kept: dict[str, Maps] = {FEATURES: {}, ATTENTION: {}}
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with listening(model, tuple(paths) if kinds else ()) as latest:
        for at in range(0, len(data), BATCH):
            outputs.append(_run(model, data.take(slice(at, at + BATCH)).inputs).numpy())
            side = _side(len(data) * sum(x.shape[1] for x in latest.values()))
            for path, kind in product(latest, kinds):
                _put_(kept[kind], path, at, len(data), _SMALL[kind](latest[path], side))
    return Teacher(np.concatenate(outputs), kept[FEATURES], kept[ATTENTION])


@contextmanager
def lesson(
    student: nn.Module, transfer: str, weight: float, materials: Materials
) -> Iterator["Pupil"]:
    """The student with its term of the loss. Raises GateError where there is nothing to transfer."""
    teacher = materials.teacher or Teacher(np.empty(0))
    maps = teacher.maps if transfer == FEATURES else teacher.attention
    pairs = matched(taps(student, materials.inputs), tuple(maps))
    with listening(student, [ours for ours, _ in pairs]) as latest:
        _run(student, materials.inputs)
        targets = {ours: maps[theirs] for ours, theirs in pairs if _comparable(latest[ours], maps[theirs])}
        if not targets:
            lacking = "the student has no layer like it" if maps else "the teacher is not remembered"
            raise GateError(f"transfer of {transfer}: {lacking}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(materials.seed)
            pupil = Pupil(student, targets, latest, transfer, weight)
        yield pupil


class Pupil(nn.Module):
    """A student as its own part, beside the projectors that are dropped after the lesson."""

    def __init__(
        self, student: nn.Module, maps: Mapping[str, Array], latest: dict[str, Tensor], transfer: str,
        weight: float,
    ) -> None:
        super().__init__()
        self.student, self.weight = student, weight
        self._maps, self._latest, self._transfer = maps, latest, transfer
        self.projectors = nn.ModuleList(
            nn.Conv2d(latest[path].shape[1], target.shape[1], 1) for path, target in maps.items()
        ) if transfer == FEATURES else nn.ModuleList()
        self._start = [parameter.detach().clone() for parameter in self.projectors.parameters()]
        self.taught = 0  # how often the term was asked for

    def forward(self, *inputs: Tensor) -> Tensor:
        outputs: Tensor = self.student(*inputs)
        return outputs

    def term(self, rows: NDArray[np.int64]) -> Tensor:
        """The weighted distance from the teacher, mean over taps, of the rows that just went through."""
        self.taught += 1
        targets = {path: torch.from_numpy(kept[rows]).float() for path, kept in self._maps.items()}
        if self._transfer == FEATURES:
            found = [_feature_distance(self._latest[path], target, projector) for (path, target), projector
                     in zip(targets.items(), self.projectors, strict=True)]
        else:
            found = [_attention_distance(self._latest[path], target) for path, target in targets.items()]
        return self.weight * torch.stack(found).mean()

    def check(self) -> None:
        """Raises GateError when the student was never taught, or the projectors learnt nothing."""
        now = self.projectors.parameters()
        if not self.taught or any(torch.equal(p, was) for p, was in zip(now, self._start, strict=True)):
            raise GateError(f"transfer of {self._transfer}: the term was no part of the training")


def _feature_distance(x: Tensor, target: Tensor, projector: nn.Module) -> Tensor:
    """Mean square error over the mean square of the target; 1 is as bad as zeros.

    Pooled first: a linear map over channels and a mean over positions can change places.
    """
    ours = projector(functional.adaptive_avg_pool2d(x, _last_two(target)))
    return functional.mse_loss(ours, target) / target.square().mean().clamp_min(1e-12)


def _attention_distance(x: Tensor, target: Tensor) -> Tensor:
    """Square of the distance between unit vectors, 0-4, the mean over examples."""
    return (_looks(x, _last_two(target)) - target).square().sum((1, 2, 3)).mean()


def _looks(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Where the channels are strong, (batch, 1, height, width) of length 1 an example."""
    strength = functional.adaptive_avg_pool2d(x.square().mean(1, keepdim=True), size)
    return functional.normalize(strength.flatten(1), dim=1).view_as(strength)


def _attention(x: Tensor, side: int) -> Tensor:
    return _looks(x, _size(x, ATTENTION_SIDE))


def _features(x: Tensor, side: int) -> Tensor:
    return functional.adaptive_avg_pool2d(x, _size(x, side)).clamp(-HALF, HALF)


_SMALL = {FEATURES: _features, ATTENTION: _attention}


def _comparable(x: Tensor, target: Array) -> bool:
    """Tokens lie in a row, convolutions in a grid; a mean over all positions is comparable with any."""
    return target.shape[2:] == (1, 1) or (x.shape[3] == 1) == (target.shape[3] == 1)


def _last_two(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


def _size(x: Tensor, side: int) -> tuple[int, int]:
    """At most side x side positions; of tokens, which lie in one row, as many."""
    height, width = x.shape[2:]
    return (min(height, side**2), 1) if width == 1 else (min(height, side), min(width, side))


def _side(channels: int) -> int:
    """The side at which that many channels of all examples fit."""
    return next((side for side in (SIDE, 2) if channels * side**2 * 2 <= LARGEST), 1)


def _put_(kept: Maps, path: str, at: int, total: int, part: Tensor) -> None:
    if path not in kept:
        kept[path] = np.empty((total, *part.shape[1:]), np.float16)
    kept[path][at : at + len(part)] = part.numpy()


def _run(model: nn.Module, inputs: tuple[Array, ...]) -> Tensor:
    with torch.inference_mode():
        found = model.eval()(*(torch.from_numpy(np.array(array)) for array in inputs))
    first: Tensor = found if isinstance(found, Tensor) else found[0]
    return first
