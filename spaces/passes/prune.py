"""Structured pruning: whole channels and neurons leave, the tensors really shrink.

Which channels can go is found by `_channels`, which ones matter least by `_importance`, and which groups
get narrower by `_allocation`. Target widths are chosen here, because the rounding of torch-pruning is
not monotonic, and every cut is checked before anything is trained.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from ...errors import GateError
from ..knob import Choice, FloatRange, Knob, Value
from . import _allocation, _cost
from ._allocation import Plan, narrowed
from ._base import Array, Left, Materials, ModulePass, Scope
from ._channels import (
    Group,
    check_equivalent,
    check_removed,
    check_widths,
    prunable,
    remove_,
    stages_of,
)
from ._importance import CRITERIA, Scores, least, scores

__all__ = ["CRITERIA", "Group", "Prune", "PrunePass", "check_equivalent", "check_widths", "cut_", "narrowed",
           "prunable", "stages_of"]

Curve = tuple[tuple[float, float], ...]  # (ratio, rise of the distance to the untouched model's outputs)
PLANNED = (0.5, 0.7)  # shares of the cost to take away: what most models can spare
SLACK = 1e-6  # of a cost that is compared with the budget it was planned for


@dataclass(frozen=True, slots=True)
class Prune:
    """Share of the channels to remove, by stage or for the whole network; widths are multiples of a step.

    `allocation` "stages" takes `ratios`, one a stage, 0-1. All others take `amount`, 0-1: of the channels of
    every group ("uniform"), of all channels together ("global"), of the multiply-adds of the layers that
    can get narrower ("sensitivity"), of their predicted latency ("latency"). What the last two decide
    by is stored: `rises` (root -> measured curve), `machine` (kind of the profile) and `prices`.
    """

    ratios: tuple[float, ...]
    criterion: str
    width_step: int
    allocation: str = "stages"
    amount: float = 0.0
    rises: tuple[tuple[str, Curve], ...] = ()
    machine: str = ""
    prices: _cost.Prices = ()

    def __str__(self) -> str:
        if self.allocation == "stages":
            return f"prune {'/'.join(f'{ratio * 100:.0f}' for ratio in self.ratios)} % {self.criterion}"
        return f"prune {self.allocation} {self.amount * 100:.0f} % {self.criterion}"


class PrunePass(ModulePass):
    """`Prune`, see the module."""

    name = "prune"
    does = "removes whole channels and neurons, by stage of the network or where they cost most"
    paper = ("DepGraph, arXiv:2301.12900; FPGM, arXiv:1811.00250; Taylor, arXiv:1906.10771; "
             "network slimming, arXiv:1708.06519; HALP, arXiv:2110.10811")
    ability = None
    step = Prune
    only_if: ClassVar[Mapping[str, tuple[str, tuple[Value, ...]]]] = {
        "ratio": ("allocation", ("stages",)),
        "amount": ("allocation", ("uniform", "global", "sensitivity", "latency")),
        "device": ("allocation", ("latency",)),
    }

    def refused(self, scope: Scope) -> str | None:
        return None if scope.stages else "no layer of this model can be narrowed safely"

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        ratio = FloatRange(0.0, 0.8, step=0.1)
        devices = tuple(profile.name for profile in scope.profiles)
        return {"allocation": Choice(tuple(ALLOCATIONS)),
                **{f"ratio.{stage}": ratio for stage in scope.stages},
                "amount": FloatRange(0.1, 0.9, step=0.05),
                **({"device": Choice(devices)} if len(devices) > 1 else {}),
                "criterion": Choice(tuple(c for c in CRITERIA if c != "bn_scale" or scope.batch_norm))}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        """Even ones, then those that a knapsack over the exact cost finds along the budget."""
        even: list[dict[str, Value]] = [
            {"allocation": "stages", **{f"ratio.{stage}": ratio for stage in scope.stages}, "criterion": "l2"}
            for ratio in (0.5, 0.7, 0.3)]
        planned: list[dict[str, Value]] = [
            {"allocation": "latency", "amount": share, "criterion": "taylor"} for share in PLANNED]
        return (*even, *planned)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Prune | None:
        criterion, allocation = str(values["criterion"]), str(values.get("allocation", "stages"))
        if allocation == "stages":
            ratios = tuple(float(values[f"ratio.{stage}"]) for stage in scope.stages)
            return Prune(ratios, criterion, scope.width_step) if any(ratios) else None
        step = Prune((), criterion, scope.width_step, allocation, float(values["amount"]))
        return _with_grounds(step, values, scope)

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        stages = [1 - float(values.get(f"ratio.{stage}", 0.0)) for stage in scope.stages]
        amount = 1 - float(values.get("amount", 0.0))
        squares = {"stages": sum(kept**2 for kept in stages) / len(stages), "uniform": amount**2}
        share = squares.get(str(values.get("allocation", "stages")), amount)
        return Left(share, share)

    def apply(self, step: Prune, model: nn.Module, materials: Materials) -> nn.Module:
        """A narrower copy. Raises GateError: nothing left, too much left, or the wrong weights."""
        inputs = materials.inputs
        groups = prunable(model, inputs, materials.keep)
        if not groups:
            raise GateError("no layer of this model can be narrowed safely")
        job = Job(step, model, groups, materials)
        found = scores(model, [g.root for g in groups], step.criterion, inputs, materials.subject)
        planned = ALLOCATIONS[step.allocation](job, found)
        plan = {group.root: planned[group.root] for group in groups if planned[group.root] < group.width}
        if not plan:
            raise GateError(f"{step} in steps of {step.width_step} removes nothing")
        pruned, drop = copy.deepcopy(model), least(found, plan)
        removed = remove_(pruned, drop, inputs)
        check_widths(model, pruned, plan)
        check_removed(removed, drop)
        check_equivalent(model, pruned, removed, inputs)
        job.check_cost(pruned)
        return pruned


@dataclass(frozen=True)
class Job:
    """One model to be narrowed as a step says."""

    step: Prune
    model: nn.Module
    groups: tuple[Group, ...]
    materials: Materials

    def stages(self, found: Scores) -> Plan:
        """Stages are those of the untouched model, whatever earlier passes took out of this one."""
        step, untouched = self.step, self.materials.subject.model()
        same = _layout(untouched) == _layout(self.model)
        groups = self.groups if same else prunable(untouched, self.materials.inputs, self.materials.keep)
        stages = stages_of(groups)
        if len(stages) != len(step.ratios):
            raise GateError(f"{len(step.ratios)} ratios for a model of {len(stages)} stages")
        ratios = {path: ratio for stage, ratio in zip(stages, step.ratios, strict=True)
                  for group in stage for path in group.makers}
        return {g.root: narrowed(g.width, ratios.get(g.root, 0.0), step.width_step) for g in self.groups}

    def uniform(self, found: Scores) -> Plan:
        return {g.root: narrowed(g.width, self.step.amount, self.step.width_step) for g in self.groups}

    def pooled(self, found: Scores) -> Plan:
        return _allocation.pooled(found, self.step.amount, self.step.width_step)

    def sensitivity(self, found: Scores) -> Plan:
        """Least summed rise for the multiply-adds; by importance where nothing was measured."""
        rises, step = dict(self.step.rises), self.step.width_step
        known = any(path in rises for group in self.groups for path in group.makers)
        values = (_allocation.spared(self.groups, rises, step) if known
                  else _allocation.kept_importance(found, step))
        return _allocation.knapsack(values, self.cost, self.step.amount)

    def latency(self, found: Scores) -> Plan:
        values = _allocation.kept_importance(found, self.step.width_step)
        return _allocation.knapsack(values, self.cost, self.step.amount)

    @property
    def cost(self) -> _cost.Cost:
        widths = {group.root: group.width for group in self.groups}
        return _cost.Cost(_cost.layers(self.model, widths, self.materials.inputs), widths,
                          self.step.machine, self.step.prices or _cost.MULTIPLY_ADDS)

    def check_cost(self, pruned: nn.Module) -> None:
        """What was planned for a budget meets it, read from the pruned model itself."""
        if self.step.allocation not in ("sensitivity", "latency"):
            return
        cost = self.cost
        paths = [layer.path for layer in cost.layers]
        before, after = (cost.of(kernel for _, kernel in _cost.kernels(model, paths, self.materials.inputs))
                         for model in (self.model, pruned))
        if after > before * (1 - self.step.amount) * (1 + SLACK):
            raise GateError(f"{self.step.amount:.0%} of the cost was to go, {1 - after / before:.1%} went")


ALLOCATIONS: dict[str, Callable[[Job, Scores], Plan]] = {
    "stages": Job.stages, "uniform": Job.uniform, "global": Job.pooled,
    "sensitivity": Job.sensitivity, "latency": Job.latency,
}


def cut_(
    model: nn.Module, plan: Mapping[str, int], criterion: str, inputs: tuple[Array, ...]
) -> dict[str, list[int]]:
    """Narrows each root of the plan in place, by a criterion that needs no data; returns what left."""
    return remove_(model, least(scores(model, plan, criterion, inputs), plan), inputs)


def _with_grounds(step: Prune, values: Mapping[str, Value], scope: Scope) -> Prune:
    """The step with what its allocation decides by, so that it decides the same anywhere."""
    if step.allocation == "latency":
        device = values.get("device", scope.profiles[0].name)
        profile = next(each for each in scope.profiles if each.name == device)
        return replace(step, machine=profile.kind, prices=_cost.prices(profile))
    if step.allocation == "sensitivity" and scope.sensitivity:
        rises = {root: tuple(sorted((ratio, float(f"{rise:.4g}")) for ratio, rise in curve.items()))
                 for root, curve in scope.sensitivity.ratios.items()}
        return replace(step, rises=tuple(sorted(rises.items())))
    return step


def _layout(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}
