"""Taps: the modules inside a network whose outputs a student can be taught.

Of a convolutional network the last module at each resolution, of a network over tokens its repeated
blocks; a depth that differs between teacher and student is evened out by `matched`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import hooked
from .subject import Array

SPATIAL = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
MASKS = "parametrizations"  # torch's name for what hangs on a layer's weight
MOST = 4  # of a teacher: what is remembered of it must stay small


@dataclass(frozen=True, slots=True)
class _Heard:
    """One module in one forward pass."""

    path: str
    module: nn.Module
    took: tuple[int, ...]
    gave: tuple[int, ...]

    @property
    def is_block(self) -> bool:
        """A part made of parts, from tokens (batch, tokens, width) to tokens of the same shape."""
        parts = any(name != MASKS for name, _ in self.module.named_children())
        return len(self.gave) == 3 and self.took == self.gave and parts

    @property
    def is_spatial(self) -> bool:
        """Gives (batch, channels, height, width) with more than one position."""
        convolves = any(isinstance(part, SPATIAL) for part in self.module.modules())
        return len(self.gave) == 4 and self.gave[2] * self.gave[3] > 1 and convolves


def taps(model: nn.Module, inputs: tuple[Array, ...]) -> tuple[str, ...]:
    """Paths of all taps of a model, in order of execution; `inputs` are example inputs (batch, ...)."""
    heard = _heard(model, inputs)
    return _blocks(heard) or _resolutions(heard)


def spaced(items: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` of the items, evenly spaced, the last one among them; all where there are fewer."""
    count = min(count, len(items))
    return tuple(items[-(-(i + 1) * len(items) // count) - 1] for i in range(count))


def matched(student: Sequence[str], teacher: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs in order of depth; the deeper of the two leaves out taps at even distances."""
    count = min(len(student), len(teacher))
    return tuple(zip(spaced(student, count), spaced(teacher, count), strict=True))


@contextmanager
def listening(model: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What these modules gave in the latest forward pass, by path, each (batch, channels, height, width)."""
    latest: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            latest[path] = output if output.ndim == 4 else output.transpose(1, 2)[..., None]

        return hook

    with hooked(model, {path: keep(path) for path in paths}):
        yield latest


def _heard(model: nn.Module, inputs: tuple[Array, ...]) -> list[_Heard]:
    """Every module that ran exactly once on the whole batch, in the order in which they ended."""
    heard: list[_Heard] = []
    batch = inputs[0].shape[:1]
    names = {module: path for path, module in model.named_modules()
             if path and MASKS not in path.split(".")}

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.shape[:1] == batch:
            took = tuple(args[0].shape) if args and isinstance(args[0], Tensor) else ()
            heard.append(_Heard(names[module], module, took, tuple(output.shape)))

    with hooked(model, dict.fromkeys(names.values(), hook)), torch.inference_mode():
        model.eval()(*(torch.from_numpy(array.copy()) for array in inputs))
    times = Counter(one.path for one in heard)
    return [one for one in heard if times[one.path] == 1]


def _blocks(heard: Sequence[_Heard]) -> tuple[str, ...]:
    """The outermost parts over tokens of which there are several of a kind, or the only one there is."""
    found = [one for one in heard if one.is_block]
    kinds = Counter(type(one.module) for one in found)
    found = [one for one in found if kinds[type(one.module)] > 1] or found
    return tuple(one.path for one in found
                 if not any(one.path.startswith(f"{other.path}.") for other in found))


def _resolutions(heard: Sequence[_Heard]) -> tuple[str, ...]:
    last: dict[tuple[int, ...], str] = {}
    for one in heard:
        if one.is_spatial:
            last.pop(one.gave[2:], None)  # so that the order is that of the last ones
            last[one.gave[2:]] = one.path
    return tuple(last.values())
