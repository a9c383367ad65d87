"""Rounding that gradients pass through: learned step sizes (LSQ, Esser et al. 2020, arXiv:1902.08153).

A step size is kept as its logarithm, so that it stays positive and one learning rate fits all scales.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .grid import Floats, Grid, rounded

INSIDE = 0.499  # of a step: what still rounds to the same integer


class Activations(nn.Module):
    """A QuantizeLinear / DequantizeLinear pair with one learned step for the whole tensor."""

    def __init__(self, scale: float, zero: int, low: int, high: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([np.log(scale)], dtype=torch.float32))
        self.low, self.high = low - zero, high - zero

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()

    def forward(self, x: Tensor) -> Tensor:
        rounded: Tensor = _Rounded.apply(x, self.scale, self.low, self.high)  # type: ignore[no-untyped-call]
        return rounded


class _Rounded(torch.autograd.Function):
    """x on whole steps between two limits; torch's own operator for it is private, and no faster."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        steps = x / scale
        whole = steps.round().clamp_(low, high)
        ctx.save_for_backward(steps, whole, scale)
        ctx.limits = low, high
        return whole * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,), (steps, whole, scale), (low, high) = gradients, ctx.saved_tensors, ctx.limits
        inside = ((steps >= low) & (steps <= high)).to(gradient.dtype)
        factor = 1 / (steps.numel() * max(1, high)) ** 0.5
        of_scale = torch.addcmul(whole, steps, inside, value=-1).mul_(gradient).sum() * factor
        return gradient * inside, of_scale.reshape(scale.shape), None, None


class Weights(nn.Module):
    """A weight on a grid: latent floats, a learned step for each group."""

    latent: Tensor
    zero: Tensor

    def __init__(self, grid: Grid, before: Floats | None = None) -> None:
        """`before`: the weight as it was, in the shape of the initializer."""
        super().__init__()
        self.grid = grid
        self.latent = nn.Parameter(torch.from_numpy(_start(grid, before)))
        self.log_scale = nn.Parameter(torch.from_numpy(np.log(grid.scale)))
        self.register_buffer("zero", torch.from_numpy(grid.zero.copy()))

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()

    def forward(self) -> Tensor:
        """The weight as the file will hold it, in the shape of the initializer."""
        grid = self.grid
        factor = 1 / (self.latent[0, 0].numel() * grid.levels / 2) ** 0.5
        scale = _scaled_gradient(self.scale, factor)
        steps = torch.clamp(self.latent / scale + self.zero, grid.lowest, grid.levels - 1)
        dense = (_straight_through(steps) - self.zero) * scale
        matrix = dense.reshape(len(dense), -1)
        return matrix.T if grid.layout.turned else matrix.reshape(grid.layout.shape)

    def written(self) -> Grid:
        """The grid with what was learned."""
        scale = self.scale.detach().numpy()
        integers = rounded(self.latent.detach().numpy(), scale, self.grid.zero, self.grid.levels)
        return Grid(integers, scale, self.grid.zero, self.grid.levels, self.grid.layout)


def _start(grid: Grid, before: Floats | None) -> Floats:
    """The weight on its grid, or the one before it, moved into the interval that rounds to its integer."""
    middle = grid.integers.astype(np.float32) - grid.zero
    if before is None or before.shape != grid.layout.shape:
        return (middle * grid.scale).astype(np.float32)
    old = grid.layout.matrix(before.astype(np.float32)).reshape(middle.shape) / grid.scale
    low = np.where(grid.integers == grid.lowest, -np.inf, middle - INSIDE)
    high = np.where(grid.integers == grid.levels - 1, np.inf, middle + INSIDE)
    start: Floats = (np.clip(old, low, high) * grid.scale).astype(np.float32)
    return start


def on_steps(x: Tensor, scale: Tensor) -> Tensor:
    """Rounded to whole steps, without limits: the 32-bit bias of an integer kernel."""
    return _straight_through(x / scale) * scale


def _straight_through(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _scaled_gradient(x: Tensor, factor: float) -> Tensor:
    scaled = x * factor
    return scaled + (x - scaled).detach()
