"""Structured pruning: whole channels and neurons leave, the tensors really shrink.

Dependency graph by torch-pruning (Fang et al. 2023, DepGraph, arXiv:2301.12900). Target widths are
chosen here, because the library's own rounding is not monotonic, and every cut is checked: before
recovery the pruned model must give what the original gives with the removed channels zeroed.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from ...errors import GateError
from ..keep import kept
from ..knob import Choice, FloatRange, Knob, Value
from ._base import Array, Materials, ModulePass, Scope

CRITERIA = {
    "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "fpgm": lambda: tp.importance.FPGMImportance(p=2),  # He et al. 2019, arXiv:1811.00250
}
MAX_STAGES = 4
TOLERANCE = 1e-3  # of the largest output


@dataclass(frozen=True, slots=True)
class Prune:
    """Share of the channels of each stage to remove, 0-1; widths stay multiples of `width_step`."""

    ratios: tuple[float, ...]
    criterion: str
    width_step: int

    def __str__(self) -> str:
        return f"prune {'/'.join(f'{ratio * 100:.0f}' for ratio in self.ratios)} % {self.criterion}"


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that live and die together, named after the first layer that makes them."""

    root: str  # module path
    width: int
    resolution: int  # elements of the root's output per example and channel


class PrunePass(ModulePass):
    """`Prune`, see the module."""

    name = "prune"
    does = "removes whole channels and neurons, a ratio per stage of the network"
    paper = "DepGraph, arXiv:2301.12900; FPGM, arXiv:1811.00250"
    ability = None
    step = Prune

    def refused(self, scope: Scope) -> str | None:
        return None if scope.stages else "no layer of this model can be narrowed safely"

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        ratio = FloatRange(0.0, 0.8, step=0.1)
        return {**{f"ratio.{stage}": ratio for stage in scope.stages},
                "criterion": Choice(tuple(CRITERIA))}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        return tuple({**{f"ratio.{stage}": ratio for stage in scope.stages}, "criterion": "l2"}
                     for ratio in (0.5, 0.7, 0.3))

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Prune | None:
        ratios = tuple(float(values[f"ratio.{stage}"]) for stage in scope.stages)
        if not any(ratios):
            return None
        return Prune(ratios, str(values["criterion"]), scope.width_step)

    def apply(self, step: Prune, model: nn.Module, materials: Materials) -> nn.Module:
        """A narrower copy. Raises GateError: nothing left, too much left, or the wrong weights."""
        inputs = materials.inputs
        stages = stages_of(prunable(model, inputs, materials.keep))
        if len(stages) != len(step.ratios):
            raise GateError(f"{len(step.ratios)} ratios for a model of {len(stages)} stages")
        plan = {
            group.root: width
            for stage, ratio in zip(stages, step.ratios, strict=True)
            for group in stage
            if (width := narrowed(group.width, ratio, step.width_step)) < group.width
        }
        if not plan:
            raise GateError(f"pruning by {step.ratios} in steps of {step.width_step} removes nothing")
        pruned = copy.deepcopy(model)
        removed = cut_(pruned, plan, step.criterion, inputs)
        check_widths(model, pruned, plan)
        check_equivalent(model, pruned, removed, inputs)
        return pruned


def narrowed(width: int, ratio: float, step: int) -> int:
    """The width nearest to `width * (1 - ratio)` that is a multiple of `step`, at least one step."""
    target = max(step, round(width * (1 - ratio) / step) * step)
    return min(width, target)


def prunable(
    model: nn.Module, inputs: tuple[Array, ...], keep: tuple[str, ...] = ()
) -> tuple[Group, ...]:
    """The groups that survive a trial cut: same output shape, same result as with zeroed channels.

    Groups that fail (the outputs of the network, channels behind a permutation that the dependency
    graph misreads, channels under a layer norm, constant head counts) are left alone.
    """
    widths = _root_widths(model, inputs, keep)
    shapes = _output_shapes(model, widths, inputs)
    groups = []
    for root, width in widths.items():
        if width >= 2 and root in shapes and _survives(model, root, width, inputs):
            groups.append(Group(root, width, shapes[root]))
    order = {root: i for i, root in enumerate(shapes)}
    return tuple(sorted(groups, key=lambda group: order[group.root]))


def stages_of(groups: Sequence[Group]) -> list[list[Group]]:
    """Neighbouring groups of one resolution; without resolutions, up to four equal runs."""
    stages: list[list[Group]] = []
    for group in groups:
        if stages and stages[-1][-1].resolution == group.resolution:
            stages[-1].append(group)
        else:
            stages.append([group])
    if len(stages) == 1 or len(stages) > MAX_STAGES:
        count = min(MAX_STAGES, len(groups))
        stages = [list(groups[i * len(groups) // count : (i + 1) * len(groups) // count])
                  for i in range(count)]
    return stages


def cut_(
    model: nn.Module, plan: Mapping[str, int], criterion: str, inputs: tuple[Array, ...]
) -> dict[str, list[int]]:
    """Narrows each root of the plan in place; returns what left, tensor path -> channel indices."""
    importance = CRITERIA[criterion]()
    graph = _graph(model, inputs)
    removed: dict[str, list[int]] = {}
    for root, width in plan.items():
        module = model.get_submodule(root)
        prune = graph.get_pruner_of_module(module).prune_out_channels
        every = graph.get_pruning_group(module, prune, list(range(graph.get_out_channels(module))))
        scores = importance(every)
        if scores is None:
            raise GateError(f"criterion {criterion!r} gives no score for {root}")
        drop = scores.argsort()[: len(scores) - width].tolist()
        group = graph.get_pruning_group(module, prune, drop)
        removed.update(_producers(model, graph, group))
        group.prune()
    return removed


def check_widths(model: nn.Module, pruned: nn.Module, plan: Mapping[str, int]) -> None:
    """Every planned layer has its planned width; the whole got smaller."""
    for root, width in plan.items():
        got = _channels(pruned.get_submodule(root))
        if got != width:
            raise GateError(f"{root} was to have {width} channels, it has {got}")
    if _count(pruned) >= _count(model):
        raise GateError("pruning left the number of weights as it was")


def check_equivalent(
    model: nn.Module,
    pruned: nn.Module,
    removed: Mapping[str, Sequence[int]],
    inputs: tuple[Array, ...],
) -> None:
    """The pruned model gives what the original gives with the removed channels zeroed."""
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        for path, channels in removed.items():
            owner, _, name = path.rpartition(".")
            module = zeroed.get_submodule(owner)
            _by_channel(module, name).index_fill_(0, torch.tensor(channels), 0.0)
    try:
        expected, got = _outputs(zeroed, inputs), _outputs(pruned, inputs)
    except Exception as error:
        raise GateError(f"the pruned model does not run: {error}") from error
    for want, have in zip(expected, got, strict=True):
        if want.shape != have.shape:
            raise GateError(f"pruning changed the output from {tuple(want.shape)} to {tuple(have.shape)}")
        worst = (want - have).abs().max().item()
        if not worst <= TOLERANCE * max(1e-6, want.abs().max().item()):
            raise GateError(
                f"pruning cut the wrong weights: output differs by {worst:.3g} from the original "
                "with the same channels zeroed"
            )


def _survives(model: nn.Module, root: str, width: int, inputs: tuple[Array, ...]) -> bool:
    trial = copy.deepcopy(model)
    try:
        removed = cut_(trial, {root: width - max(1, width // 2)}, "l2", inputs)
        check_equivalent(model, trial, removed, inputs)
    except Exception:  # torch-pruning raises whatever the broken forward raises
        return False
    return True


def _graph(model: nn.Module, inputs: tuple[Array, ...]) -> Any:
    example = tuple(torch.from_numpy(array.copy()) for array in inputs)
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # the tracer follows gradients
    return tp.DependencyGraph().build_dependency(model, example, verbose=False)


def _root_widths(
    model: nn.Module, inputs: tuple[Array, ...], keep: tuple[str, ...]
) -> dict[str, int]:
    model = copy.deepcopy(model)
    names = {module: name for name, module in model.named_modules()}
    roots: dict[str, int] = {}
    graph = _graph(model, inputs)
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    for group in graph.get_all_groups(ignored_layers=[], root_module_types=kinds):
        if any(kept(names.get(dep.target.module, ""), keep) for dep, _ in group):
            continue
        made = [dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        plain = [m for m in made if isinstance(m, kinds) and m in names and getattr(m, "groups", 1) == 1]
        if plain:  # a depthwise convolution follows its producer
            roots[names[plain[0]]] = graph.get_out_channels(plain[0])
    return roots


def _output_shapes(
    model: nn.Module, roots: Mapping[str, int], inputs: tuple[Array, ...]
) -> dict[str, int]:
    """Root -> elements of its output per example and channel, in order of execution."""
    shapes: dict[str, int] = {}

    def remember(root: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            shapes.setdefault(root, output.numel() // (output.shape[0] * roots[root]))

        return hook

    hooks = [model.get_submodule(root).register_forward_hook(remember(root)) for root in roots]
    try:
        _outputs(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _producers(model: nn.Module, graph: Any, group: Any) -> dict[str, list[int]]:
    """The tensors whose removed rows make a channel exactly zero when they are zeroed."""
    names = {module: name for name, module in model.named_modules()}
    found: dict[str, list[int]] = {}
    for dep, channels in group:
        module = dep.target.module
        if not graph.is_out_channel_pruning_fn(dep.handler) or module not in names:
            continue
        for name, _ in module.named_parameters(recurse=False):
            if len(_by_channel(module, name)) == graph.get_out_channels(module):
                found[f"{names[module]}.{name}"] = list(channels)
    return found


def _by_channel(module: nn.Module, name: str) -> Tensor:
    """The parameter as a view whose first dimension is the output channel."""
    tensor: Tensor = getattr(module, name)
    transposed = getattr(module, "transposed", False) and name == "weight"
    return tensor.transpose(0, 1) if transposed else tensor


def _channels(module: nn.Module) -> int:
    return int(getattr(module, "out_channels", None) or module.out_features)  # type: ignore[arg-type]


def _outputs(model: nn.Module, inputs: tuple[Array, ...]) -> list[Tensor]:
    with torch.inference_mode():
        result = model.eval()(*(torch.from_numpy(array.copy()) for array in inputs))
    return [result] if isinstance(result, Tensor) else list(result)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
