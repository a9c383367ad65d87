"""Single weights set to zero by magnitude, anywhere or two of every four; they stay zero in training.

Gradual pruning: Zhu and Gupta 2017, arXiv:1710.01878. Two of four along the inputs: Mishra et al. 2021,
arXiv:2104.08378. The zeros are held by a parametrization of each weight, which the export bakes in.
"""

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...errors import GateError
from ...hardware_profiles.profile import Ability
from ..keep import kept
from ..knob import Choice, FloatRange, Knob, Value
from ._base import Left, Materials, ModulePass, Scope

ABILITIES: dict[str, Ability] = {"unstructured": "sparsity_unstructured", "2:4": "sparsity_2_4"}
SMALLEST = 1024  # weights; below this the unpacking of the zeros outweighs them
FULL_AT = 0.7  # share of the training after which a gradual pass has set all its zeros


@dataclass(frozen=True, slots=True)
class Sparsify:
    """`amount`: share of zeros, 0-1 (0.5 for "2:4"); `gradual`: reached step by step in recovery."""

    pattern: str
    amount: float
    gradual: bool

    def __str__(self) -> str:
        how = "2:4" if self.pattern == "2:4" else f"{self.amount * 100:.0f} %"
        return f"sparsify {how}{' gradually' if self.gradual else ''}"


class SparsifyPass(ModulePass):
    """`Sparsify`, see the module."""

    name = "sparsify"
    does = "sets single weights to zero by magnitude, anywhere or two of every four"
    paper = "To prune or not to prune, arXiv:1710.01878; 2:4, arXiv:2104.08378"
    ability: Ability | None = None
    step = Sparsify
    only_if: ClassVar[Mapping[str, tuple[str, tuple[Value, ...]]]] = {
        "amount": ("pattern", ("unstructured",))}

    def refused(self, scope: Scope) -> str | None:
        share = scope.share("Conv", "ConvTranspose", "Gemm", "MatMul")
        return None if share >= 0.05 else f"layers that can be sparse hold {share:.1%} of the weights"

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {"pattern": Choice(tuple(ABILITIES)), "amount": FloatRange(0.5, 0.9, step=0.1),
                "gradual": Choice((True, False))}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        return ({"pattern": "unstructured", "amount": 0.8, "gradual": False},)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Sparsify:
        pattern = str(values["pattern"])
        amount = 0.5 if pattern == "2:4" else float(values.get("amount", 0.8))
        return Sparsify(pattern, amount, bool(values.get("gradual", False)))

    def needs(self, step: Sparsify) -> Ability | None:
        return ABILITIES[step.pattern]

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        return Left(1.0, 1 - float(values.get("amount", 0.5)) + 1 / 32)

    def apply(self, step: Sparsify, model: nn.Module, materials: Materials) -> nn.Module:
        """A copy with all its zeros. Raises GateError: nothing to set to zero, or the wrong weights."""
        sparse = copy.deepcopy(model)
        layers = dict(_layers(sparse, step.pattern, materials.keep))
        if not layers:
            raise GateError(f"no layer of {SMALLEST} weights or more can be {step}")
        for layer in layers.values():
            parametrize.register_parametrization(layer, "weight", Mask(step, layer))
        check(step, model, sparse, layers)
        return sparse


class Mask(nn.Module):
    """Multiplies a weight by zeros and ones; the smallest weights get the zeros."""

    mask: Tensor

    def __init__(self, step: Sparsify, layer: nn.Module) -> None:
        super().__init__()
        weight: Tensor = layer.weight.detach()  # type: ignore[operator]
        self.fours = _inputs(layer) if step.pattern == "2:4" else None
        self.gradual, self.zeros = step.gradual, round(step.amount * weight.numel())
        self.register_buffer("mask", torch.ones_like(weight))
        self.set_(weight, self.zeros)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def set_(self, weight: Tensor, zeros: int) -> None:
        """So many zeros, on the smallest of the weights that may be zero together."""
        size = weight.abs()
        if self.fours is not None:
            size = torch.where(_smaller_two(size, self.fours), size, torch.inf)
        flat = torch.ones(size.numel())
        flat[size.reshape(-1).topk(zeros, largest=False).indices] = 0
        self.mask.copy_(flat.view_as(size))

    def thin_(self, weight: Tensor, share: float) -> None:
        """Towards the full number of zeros, by the cubic schedule."""
        left = 1 - min(1.0, share / FULL_AT)
        zeros, now = round(self.zeros * (1 - left**3)), int((self.mask == 0).sum())
        if zeros != now and (zeros == self.zeros or abs(zeros - now) >= 0.01 * self.zeros):
            self.set_(weight, zeros)


def thin_(model: nn.Module, share: float) -> None:
    """Between two steps of training: as many zeros as a gradual pass wants at this share (0-1) of it."""
    for module in model.modules():
        mask = module[0] if isinstance(module, parametrize.ParametrizationList) else None
        if isinstance(mask, Mask) and mask.gradual:
            original: Tensor = module.original  # type: ignore[assignment]
            mask.thin_(original.detach(), share)


def check(step: Sparsify, before: nn.Module, after: nn.Module, layers: Collection[str]) -> None:
    """Each layer has its zeros, on its smallest weights; everything else is what it was. Raises GateError."""
    for name, old in before.named_parameters():
        path, _, own = name.rpartition(".")
        new: Tensor = getattr(after.get_submodule(path), own)
        sparse = path in layers and own == "weight"
        if not torch.equal(new, torch.where(new == 0, 0, old) if sparse else old):
            raise GateError(f"sparsify changed {name} beyond setting weights to zero")
        if sparse:
            _check_zeros(step, before.get_submodule(path), name, new == 0)


def _check_zeros(step: Sparsify, layer: nn.Module, name: str, zero: Tensor) -> None:
    size: Tensor = layer.weight.detach().abs()  # type: ignore[operator]
    promised = round(step.amount * size.numel())
    if int(zero.sum()) < promised:
        raise GateError(f"sparsify set {int(zero.sum())} weights of {name} to zero, not {promised}")
    if step.pattern == "2:4":
        wrong = (_in_fours(zero, _inputs(layer)).sum(-1) < 2).any()
    else:
        wrong = size[zero].max() > size[~zero].min()
    if wrong:
        raise GateError(f"sparsify did not set the smallest weights of {name} to zero")


def _layers(model: nn.Module, pattern: str, keep: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    """Those worth it: a weight that two layers share stays dense, as each would get zeros of its own."""
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for path, layer in model.named_modules():
        if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear) and not kept(path, keep):
            weight = layer.weight
            fits = pattern != "2:4" or weight.shape[_inputs(layer)] % 4 == 0
            if weight.numel() >= SMALLEST and owners[id(weight)] == 1 and fits:
                yield path, layer


def _inputs(layer: nn.Module) -> int:
    """The dimension of its weight that counts the inputs."""
    return 0 if getattr(layer, "transposed", False) else 1


def _in_fours(weight: Tensor, inputs: int) -> Tensor:
    """(..., inputs / 4, 4)."""
    last = weight.movedim(inputs, -1)
    return last.reshape(*last.shape[:-1], -1, 4)


def _smaller_two(size: Tensor, inputs: int) -> Tensor:
    """True for the two smallest of every four along the inputs."""
    fours = _in_fours(size, inputs)
    smaller = torch.zeros_like(fours, dtype=torch.bool)
    smaller.scatter_(-1, fours.topk(2, largest=False).indices, True)
    return smaller.flatten(-2).movedim(-1, inputs)
