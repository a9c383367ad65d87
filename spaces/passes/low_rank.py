"""Low-rank factorisation: one linear layer or 1x1 convolution becomes two thin ones.

Truncated singular values of the weight as its inputs scale it (SVD-LLM, Wang et al. 2024,
arXiv:2403.07378; DRONE, Chen et al. 2021): of all weights of that rank the one whose outputs on
calibration data are nearest. Denton et al. 2014, arXiv:1404.0736, for convolutions.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from ...errors import GateError
from ..keep import kept
from ..knob import FloatRange, Knob, Value
from ..subject import Array
from ._base import Left, Materials, ModulePass, Scope
from ._modules import calls, check_same, count, moments, outputs, shared

LEAST_RANK = 16  # a layer that breaks even below it is left alone: two thin kernels cost more than one
LEAST_SHARE = 0.05  # of all weights; below that there is nothing to gain
DAMPING = 1e-4  # of the mean energy of an input, for inputs that calibration data never move
TOLERANCE = 1e-4  # of the largest output
SLACK = 1e-3  # of a layer's energy, over the error that truncation must make

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True, slots=True)
class LowRank:
    """`rank` is the share of the rank at which two layers cost as much as one, 0-1."""

    rank: float
    width_step: int

    def __str__(self) -> str:
        return f"low rank {self.rank * 100:.0f} %"


class Factored(nn.Module):
    """Two thin layers in place of one."""

    def __init__(self, into: Layer, out: Layer) -> None:
        super().__init__()
        self.into, self.out = into, out

    @property
    def weight(self) -> Tensor:
        """What the two stand for, in the shape of the one; torch's fused encoder kernel reads it."""
        whole = self.out.weight.flatten(1) @ self.into.weight.flatten(1)
        return whole.reshape(*whole.shape, *self.into.weight.shape[2:])

    @property
    def bias(self) -> Tensor | None:
        return self.out.bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.into(x))
        return y


class LowRankPass(ModulePass):
    """`LowRank`, see the module."""

    name = "low_rank"
    does = "splits linear layers and 1x1 convolutions into two thin ones"
    paper = "SVD-LLM, arXiv:2403.07378; Denton et al. 2014, arXiv:1404.0736"
    ability = None
    step = LowRank

    def refused(self, scope: Scope) -> str | None:
        return None if scope.factors else (
            f"less than {LEAST_SHARE:.0%} of the weights lie in linear layers or 1x1 convolutions that are "
            "wide enough and not shared")

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {"rank": FloatRange(0.2, 0.8, step=0.1)}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        return ({"rank": 0.5},)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> LowRank:
        return LowRank(float(values.get("rank", 0.5)), scope.width_step)

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        share = float(values.get("rank", 0.5))
        return Left(share, share)

    def apply(self, step: LowRank, model: nn.Module, materials: Materials) -> nn.Module:
        """A copy of factored layers. Raises GateError: nothing to factor, or not the best of that rank."""
        inputs = materials.inputs
        ranks = {path: rank_of(model.get_submodule(path), step)
                 for path in factorable(model, inputs, materials.keep)}
        if not ranks:
            raise GateError("no layer is wide enough to be factored")
        seen = moments(model, materials.subject, ranks)
        factored = copy.deepcopy(model)
        for path, rank in ranks.items():
            factor_(factored, path, rank, seen[path])
        for path, rank in ranks.items():
            check_layer(path, model.get_submodule(path), factored.get_submodule(path), rank, seen[path])
        check_whole(model, factored, list(ranks), inputs)
        return factored


def factorable(model: nn.Module, inputs: tuple[Array, ...], keep: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Layers that two thin ones can replace, in order of execution; none where they hold few weights."""
    tied = shared(model)
    found = [path for path, call in calls(model, inputs, (nn.Linear, nn.Conv2d)).items()
             if call.args and path not in tied and not kept(path, keep)
             and _fits(model.get_submodule(path))]
    weights = sum(count(model.get_submodule(path)) for path in found)
    return tuple(found) if weights >= LEAST_SHARE * count(model) else ()


def rank_of(layer: nn.Module, step: LowRank) -> int:
    """Below the break-even rank, and a multiple of the width step where one lies there."""
    even = _even(layer)
    most = ceil(even / step.width_step) - 1  # multiples of the step that save something
    if most < 1:
        return max(1, int(step.rank * even))
    return min(max(1, round(step.rank * even / step.width_step)), most) * step.width_step


def factor_(model: nn.Module, path: str, rank: int, moment: Tensor) -> None:
    """Replaces a layer by two, in place; `moment` is the mean of x x' over its inputs, (in, in)."""
    layer = model.get_submodule(path)
    scale, inverse = _roots(moment)
    left, values, right = torch.linalg.svd(_matrix(layer) @ scale, full_matrices=False)
    evenly = values[:rank].sqrt()  # both factors alike in scale, for the training that follows
    into, out = _pair(layer, rank)
    into.weight.data.copy_((evenly[:, None] * right[:rank] @ inverse).reshape(into.weight.shape))
    out.weight.data.copy_((left[:, :rank] * evenly).reshape(out.weight.shape))
    if out.bias is not None:
        out.bias.data.copy_(layer.bias)  # type: ignore[arg-type]
    model.set_submodule(path, Factored(into, out).train(layer.training))


def check_layer(path: str, layer: nn.Module, factored: nn.Module, rank: int, moment: Tensor) -> None:
    """Raises GateError unless the layers have that rank, and err no more than the best such pair."""
    if not isinstance(factored, Factored) or factored.into.weight.shape[0] != rank:
        raise GateError(f"{path} was to become two layers of rank {rank}")
    scale, _ = _roots(moment)
    whole = _matrix(layer) @ scale
    error = ((_matrix(layer) - _matrix(factored)) @ scale).square().sum()
    least = torch.linalg.svdvals(whole)[rank:].square().sum()
    if not error <= least + SLACK * whole.square().sum():
        raise GateError(f"{path}: the factors of rank {rank} lose {error:.3g} of the output's energy, "
                        f"the best ones lose {least:.3g}")


def check_whole(model: nn.Module, factored: nn.Module, paths: list[str], inputs: tuple[Array, ...]) -> None:
    """Raises GateError unless the model got smaller, and gives what it gives with the products as weights."""
    if count(factored) >= count(model):
        raise GateError("the factors hold as many weights as the layers that they replace")
    promised = copy.deepcopy(model)
    with torch.no_grad():
        for path in paths:
            layer, pair = promised.get_submodule(path), factored.get_submodule(path)
            layer.weight.copy_(pair.weight)  # type: ignore[operator, arg-type]
    want, got = outputs(promised, inputs), outputs(factored, inputs)
    check_same(want, got, TOLERANCE, "the factors are wired wrongly")


def _fits(layer: nn.Module) -> bool:
    """The very types: what is derived from them may read its weight elsewhere, as torch's attention does."""
    plain = type(layer) is nn.Linear or (
        type(layer) is nn.Conv2d and layer.kernel_size == (1, 1) and layer.groups == 1
        and layer.padding_mode == "zeros")
    return plain and _even(layer) >= LEAST_RANK


def _even(layer: nn.Module) -> float:
    """The rank r at which r (in + out) = in x out: as many multiply-adds in two layers as in one."""
    made, taken = _matrix(layer).shape
    return made * taken / (made + taken)


def _matrix(layer: nn.Module) -> Tensor:
    """(out, in), float64"""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach().flatten(1).double()


def _roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """S and its inverse, where S S' is the moment, lightly damped."""
    values, vectors = torch.linalg.eigh(moment)
    damped = (values.clamp(min=0) + DAMPING * moment.diagonal().mean().clamp(min=1e-12)).sqrt()
    return vectors * damped, (vectors / damped).T


def _pair(layer: nn.Module, rank: int) -> tuple[Layer, Layer]:
    """The stride and the padding stay with the first layer, the bias goes to the second."""
    bias, dtype = layer.bias is not None, layer.weight.dtype
    if isinstance(layer, nn.Linear):
        return (nn.Linear(layer.in_features, rank, False, dtype=dtype),
                nn.Linear(rank, layer.out_features, bias, dtype=dtype))
    assert isinstance(layer, nn.Conv2d)
    into = nn.Conv2d(layer.in_channels, rank, 1, layer.stride, layer.padding,  # type: ignore[arg-type]
                     bias=False, dtype=dtype)
    return into, nn.Conv2d(rank, layer.out_channels, 1, bias=bias, dtype=dtype)
