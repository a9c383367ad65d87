"""Running one model many times, a few weights changed each time, without doing the same work again.

A convolution or linear layer whose inputs and weights are what they were gives what it gave: only what
lies behind a change is computed. Nothing is assumed of the order of layers or of how they are joined.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from .subject import Array

HEAVY = (nn.modules.conv._ConvNd, nn.Linear)


class Replay:
    """One batch of examples, each input (batch, ...); the model that it is given stays as it is."""

    def __init__(self, model: nn.Module, inputs: tuple[Array, ...]) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.macs = 0  # of one untouched run, heavy layers alone
        self._inputs = tuple(torch.from_numpy(array.copy()) for array in inputs)
        self._parameters = dict(self.model.named_parameters())
        self._seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        self._changed: set[nn.Module] = set()
        self._rounded: set[nn.Module] = set()
        for module in self.model.modules():
            if isinstance(module, HEAVY):
                setattr(module, "forward", partial(self._forward, module, module.forward))  # noqa: B010
        self._learning = True
        self.untouched = self._run()
        self._learning = False

    def outputs(self, weights: Mapping[str, Tensor], round_inputs: bool = False) -> Tensor:
        """The first output with these parameters, by name, in place of the model's own.

        `round_inputs`: what the layers of these parameters read is rounded to 8 bits as well.
        """
        with self._in_place(weights, round_inputs):
            return self._run()

    @contextmanager
    def _in_place(self, weights: Mapping[str, Tensor], round_inputs: bool) -> Iterator[None]:
        before = {name: self._parameters[name].data for name in weights}
        mine = {id(self._parameters[name]) for name in weights}
        self._changed = {module for module in self.model.modules()
                         if any(id(p) in mine for p in module.parameters(recurse=False))}
        self._rounded = self._changed if round_inputs else set()
        try:
            for name, value in weights.items():
                self._parameters[name].data = value
            yield
        finally:
            self._changed, self._rounded = set(), set()
            for name, value in before.items():
                self._parameters[name].data = value

    def _run(self) -> Tensor:
        with torch.inference_mode():
            # Models may write into their inputs.
            result = self.model(*(value.clone() for value in self._inputs))
        first: Tensor = result if isinstance(result, Tensor) else result[0]
        return first.double()

    def _forward(
        self, module: nn.Module, forward: Callable[..., Tensor], value: Tensor, *more: object, **named: object
    ) -> Tensor:
        if self._learning:
            out = forward(value, *more, **named)
            self._seen.setdefault(module, []).append((value.clone(), out.clone()))
            self.macs += out.numel() * int(module.weight[0].numel())  # type: ignore[index]
            return out
        if module not in self._changed:
            for inputs, outputs in self._seen.get(module, ()):
                if inputs.shape == value.shape and torch.equal(inputs, value):
                    return outputs.clone()  # what follows may write into it
        return forward(_rounded(value) if module in self._rounded else value, *more, **named)


def _rounded(value: Tensor) -> Tensor:
    """On 256 levels between its least and its largest element, zero among them."""
    low, high = value.min().clamp(max=0), value.max().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(value.dtype).tiny)
    zero = (-low / scale).round()
    levels: Tensor = ((value / scale + zero).round().clamp(0, 255) - zero) * scale
    return levels
