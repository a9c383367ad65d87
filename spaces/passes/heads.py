"""Attention heads leave whole: their rows of the projections in, their columns of the projection out.

Michel et al. 2019, "Are Sixteen Heads Really Better than One?", arXiv:1905.10650: heads are ranked over
the whole network, here by the energy that each one adds to its layer's output on calibration data.
Attention is recognised by trying: a head may leave only if the model then gives what it gives with that
head's columns of the output projection zeroed. A constant number of heads fails that and is left alone.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import GateError
from ..keep import kept
from ..knob import FloatRange, Knob, Value
from ..subject import Array, Subject
from ._attention import TOLERANCE, opened
from ._base import Left, Materials, ModulePass, Scope
from ._modules import calls, check_same, count, linear, moments, outputs, shared


@dataclass(frozen=True, slots=True)
class Heads:
    """Share of all attention heads to remove, 0-1; each attention keeps at least one."""

    ratio: float

    def __str__(self) -> str:
        return f"heads -{self.ratio * 100:.0f} %"


@dataclass(frozen=True, slots=True)
class Site:
    """One attention: the linear layers that make queries, keys and values, and the one after them."""

    parts: tuple[str, ...]  # three module paths, or one of a fused layer
    out: str
    heads: int
    head_dim: int
    interleaved: bool = False  # rows of a fused layer run (head, qkv, dim) in place of (qkv, head, dim)

    @property
    def name(self) -> str:
        """The module that owns the output projection."""
        return self.out.rpartition(".")[0] or self.out

    @property
    def form(self) -> tuple[int, bool]:
        return self.head_dim, self.interleaved

    def rows(self, heads: list[int]) -> Tensor:
        """Rows of these heads in the weight of each part."""
        thirds = 3 // len(self.parts)
        rows = torch.arange(thirds * self.heads * self.head_dim)
        if self.interleaved:
            return rows.reshape(self.heads, -1)[heads].flatten()
        return rows.reshape(thirds, self.heads, -1)[:, heads].flatten()

    def columns(self, heads: list[int]) -> Tensor:
        """Columns of these heads in the weight of the output projection."""
        return torch.arange(self.heads * self.head_dim).reshape(self.heads, -1)[heads].flatten()


Plan = Mapping[Site, list[int]]  # attention -> the heads that leave


class HeadsPass(ModulePass):
    """`Heads`, see the module."""

    name = "heads"
    does = "removes whole attention heads, the least active of the network first"
    paper = "Are Sixteen Heads Really Better than One?, arXiv:1905.10650"
    ability = None
    step = Heads

    def refused(self, scope: Scope) -> str | None:
        return None if scope.heads else (
            "no attention head can be removed: there is no attention whose number of heads follows from "
            "the shapes of its weights (a constant number of heads cannot be cut)")

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {"ratio": FloatRange(0.0, 0.75, step=0.125)}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        return ({"ratio": 0.5},)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Heads | None:
        ratio = float(values.get("ratio", 0.5))
        return Heads(ratio) if round(ratio * sum(scope.heads.values())) else None

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        share = 1 - float(values["ratio"]) / 3  # attention is about a third of an encoder
        return Left(share, share)

    def apply(self, step: Heads, model: nn.Module, materials: Materials) -> nn.Module:
        """A copy with fewer heads. Raises GateError: nothing left, or other heads than those it was to be."""
        inputs = materials.inputs
        whole = opened(model, inputs, materials.keep)
        plan = chosen(whole, removable(model, inputs, materials.keep), step.ratio, materials.subject)
        if not plan:
            raise GateError(f"a ratio of {step.ratio} removes no attention head")
        cut = copy.deepcopy(whole)
        for site, heads in plan.items():
            remove_(cut, site, heads)
        check(whole, cut, plan, inputs)
        if count(cut) >= count(model):
            raise GateError("removing heads left the number of weights as it was")
        return cut


def removable(model: nn.Module, inputs: tuple[Array, ...], keep: tuple[str, ...] = ()) -> tuple[Site, ...]:
    """The attentions from which a head can leave, in order of execution."""
    model = opened(model, inputs, keep)
    tied = shared(model)
    called = [path for path, call in calls(model, inputs, nn.Linear).items()
              if call.times == 1 and path not in tied and not kept(path, keep)
              and type(model.get_submodule(path)) is nn.Linear]
    found: list[Site] = []
    for at in range(len(called)):
        used = {path for site in found for path in (*site.parts, site.out)}
        guesses = _guesses(model, called[at : at + 4]) if called[at] not in used else []
        likely = sorted(guesses, key=lambda guess: guess.form not in [site.form for site in found])
        found += next(([site] for site in likely if _survives(model, site, inputs)), [])
    return tuple(found)


def chosen(
    model: nn.Module, sites: tuple[Site, ...], ratio: float, subject: Subject
) -> dict[Site, list[int]]:
    """The `ratio` of all heads that add the least to what their layers give on calibration data."""
    energies = moments(model, subject, [site.out for site in sites])
    ranked = sorted((share, at, head) for at, site in enumerate(sites)
                    for head, share in enumerate(_shares(model, site, energies[site.out])))
    plan: dict[Site, list[int]] = {}
    left = round(ratio * len(ranked))
    for _, at, head in ranked:
        gone = plan.setdefault(sites[at], [])
        if left and len(gone) < sites[at].heads - 1:
            gone.append(head)
            left -= 1
    return {site: sorted(gone) for site, gone in plan.items() if gone}


def remove_(model: nn.Module, site: Site, heads: list[int]) -> None:
    """Takes these heads out of the weights, in place."""
    staying = [head for head in range(site.heads) if head not in heads]
    for path in site.parts:
        layer = linear(model, path)
        rows = site.rows(staying)
        layer.weight = _picked(layer.weight, 0, rows)
        if layer.bias is not None:
            layer.bias = _picked(layer.bias, 0, rows)
        layer.out_features = len(rows)
    out = linear(model, site.out)
    out.weight = _picked(out.weight, 1, site.columns(staying))
    out.in_features = out.weight.shape[1]


def check(whole: nn.Module, cut: nn.Module, plan: Plan, inputs: tuple[Array, ...]) -> None:
    """Raises GateError unless each attention lost its heads, and gives what it gives with them zeroed."""
    zeroed = copy.deepcopy(whole)
    for site, heads in plan.items():
        if linear(cut, site.out).in_features != (site.heads - len(heads)) * site.head_dim:
            raise GateError(f"{site.name} was to lose {len(heads)} of its {site.heads} heads")
        with torch.no_grad():
            linear(zeroed, site.out).weight.index_fill_(1, site.columns(heads), 0.0)
    try:
        want, got = (_inside(model, plan, inputs) for model in (zeroed, cut))
    except Exception as error:
        raise GateError(f"the model does not run without these heads: {error}") from error
    check_same(want, got, TOLERANCE, "other heads were cut than those that were to leave")


def _guesses(model: nn.Module, paths: list[str]) -> Iterator[Site]:
    """What linear layers called one after another may be, narrow heads first."""
    layers = [linear(model, path) for path in paths]
    for parts in (1, 3):
        if len(layers) <= parts:
            return
        width, made = layers[parts].in_features, {layer.out_features for layer in layers[:parts]}
        if made != {3 // parts * width}:
            continue
        for dim in (d for d in range(2, width // 2 + 1) if width % d == 0):
            for interleaved in (False, True) if parts == 1 else (False,):
                yield Site(tuple(paths[:parts]), paths[parts], width // dim, dim, interleaved)


def _survives(model: nn.Module, site: Site, inputs: tuple[Array, ...]) -> bool:
    """Whether one head can leave; what is tried may break in any way the model likes."""
    plan = {site: [site.heads // 2]}
    trial = copy.deepcopy(model)
    try:
        remove_(trial, site, plan[site])
        check(model, trial, plan, inputs)
    except Exception:
        return False
    return True


def _inside(model: nn.Module, plan: Plan, inputs: tuple[Array, ...]) -> list[Tensor]:
    """The outputs of the model, and those of every attention that is cut: nothing later can hide an error."""
    called = calls(model, inputs, nn.Linear)
    return [*outputs(model, inputs), *(called[site.out].output for site in plan)]


def _shares(model: nn.Module, site: Site, moment: Tensor) -> list[float]:
    """The energy of each head's part of the output: trace of W C W', as a share of the layer's."""
    weight = linear(model, site.out).weight.detach().double()
    energies = []
    for head in range(site.heads):
        columns = site.columns([head])
        part = weight[:, columns]
        energies.append(float((part @ moment[columns][:, columns] * part).sum()))
    return [energy / max(sum(energies), 1e-30) for energy in energies]


def _picked(tensor: Tensor, dim: int, index: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().index_select(dim, index), tensor.requires_grad)
