"""Channels that live and die together: which can leave safely, and taking them out.

Dependency graph by torch-pruning (Fang et al. 2023, DepGraph, arXiv:2301.12900). It can misread a
network without noticing, so nothing is believed: a group is prunable only after a trial cut, and each
cut must give what the original gives with the removed channels zeroed.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ...errors import GateError
from ..hooks import hooked
from ..keep import kept
from ._base import Array
from ._modules import outputs

KINDS = (nn.modules.conv._ConvNd, nn.Linear)  # layers whose outputs are narrowed
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
MAX_STAGES = 4
TOLERANCE = 1e-3  # of the largest output


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that live and die together, named after the first layer that makes them."""

    root: str  # module path
    width: int
    resolution: int  # elements of the root's output per example and channel
    makers: tuple[str, ...] = ()  # paths of all layers that make these channels, the root first


def prunable(
    model: nn.Module, inputs: tuple[Array, ...], keep: tuple[str, ...] = ()
) -> tuple[Group, ...]:
    """The groups that survive a trial cut: same output shape, same result as with zeroed channels.

    Groups that fail (the outputs of the network, channels behind a permutation that the dependency
    graph misreads, channels under a layer norm, constant head counts, embeddings, recurrent layers
    that would have to change inside) are left alone.
    """
    makers = _makers(model, inputs, keep)
    widths = {root: channels(model.get_submodule(root)) for root in makers}
    shapes = _output_shapes(model, widths, inputs)
    found = [Group(root, width, shapes[root], makers[root]) for root, width in widths.items()
             if width >= 2 and root in shapes and _survives(model, root, width, inputs)]
    order = {root: i for i, root in enumerate(shapes)}
    return tuple(sorted(found, key=lambda group: order[group.root]))


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


def remove_(
    model: nn.Module, drop: Mapping[str, Sequence[int]], inputs: tuple[Array, ...]
) -> dict[str, list[int]]:
    """Takes the channels of each root out, in place; returns tensor path -> the rows that left."""
    graph = dependencies(model, inputs)
    removed: dict[str, list[int]] = {}
    for root, rows in drop.items():
        group = group_of(graph, model.get_submodule(root), rows)
        removed.update(producers(model, graph, group))
        group.prune()
    return removed


def check_removed(removed: Mapping[str, Sequence[int]], drop: Mapping[str, Sequence[int]]) -> None:
    """What left is what was chosen."""
    for root, rows in drop.items():
        if sorted(removed.get(f"{root}.weight", ())) != sorted(rows):
            raise GateError(f"pruning took other channels of {root} than those chosen")


def check_widths(model: nn.Module, pruned: nn.Module, plan: Mapping[str, int]) -> None:
    """Every planned layer has its planned width; the whole got smaller."""
    for root, width in plan.items():
        got = channels(pruned.get_submodule(root))
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
        for path, rows in removed.items():
            owner, _, name = path.rpartition(".")
            module = zeroed.get_submodule(owner)
            _by_channel(module, name).index_fill_(0, torch.tensor(rows), 0.0)
    try:
        expected, got = outputs(zeroed, inputs), outputs(pruned, inputs)
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


def dependencies(model: nn.Module, inputs: tuple[Array, ...]) -> Any:
    """torch-pruning's dependency graph; from here on every parameter of the model takes gradients.

    It follows gradients, and gets lost inside recurrent layers: the graph ends at what they read and begins
    anew at what they give, so that nothing they touch survives a trial cut.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    opaque = {path: module for path, module in model.named_modules() if isinstance(module, RECURRENT)}
    ends: list[Tensor] = []

    def cut_off(module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> Any:
        ends.extend(_flat(args[0]))
        return _detached(output)

    with hooked(model, dict.fromkeys(opaque, cut_off)):
        return tp.DependencyGraph().build_dependency(
            model, tensors(inputs), ignored_layers=list(opaque.values()), verbose=False,
            output_transform=lambda out: [each for each in (*_flat(out), *ends) if each.grad_fn is not None])


def group_of(graph: Any, module: nn.Module, rows: Sequence[int] | None = None) -> Any:
    """The coupled changes when these output channels of the module leave; all of them by default."""
    prune = graph.get_pruner_of_module(module).prune_out_channels
    every = range(graph.get_out_channels(module)) if rows is None else rows
    return graph.get_pruning_group(module, prune, list(every))


def makers_of(graph: Any, group: Any) -> Iterator[nn.Module]:
    """The convolutions and linear layers that make the channels of a group, the root first."""
    for dep, _ in group:
        if graph.is_out_channel_pruning_fn(dep.handler) and isinstance(dep.target.module, KINDS):
            yield dep.target.module


def channels(module: nn.Module) -> int:
    return int(getattr(module, "out_channels", None) or module.out_features)  # type: ignore[arg-type]


def tensors(arrays: tuple[Array, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array.copy()) for array in arrays)


def _flat(nested: Any) -> list[Tensor]:
    if isinstance(nested, Mapping):
        nested = tuple(nested.values())
    if isinstance(nested, tuple | list):
        return [each for part in nested for each in _flat(part)]
    return [nested] if isinstance(nested, Tensor) else []


def _detached(nested: Any) -> Any:
    if isinstance(nested, PackedSequence):
        return nested._replace(data=nested.data.detach())
    if isinstance(nested, tuple):
        return tuple(map(_detached, nested))
    return nested.detach() if isinstance(nested, Tensor) else nested


def _survives(model: nn.Module, root: str, width: int, inputs: tuple[Array, ...]) -> bool:
    trial = copy.deepcopy(model)
    # Scattered, so that a permutation does not map the cut onto itself.
    rows = sorted(np.random.default_rng(0).permutation(width)[: max(1, width // 2)].tolist())
    try:
        removed = remove_(trial, {root: rows}, inputs)
        check_equivalent(model, trial, removed, inputs)
    except Exception:  # torch-pruning raises whatever the broken forward raises
        return False
    return True


def _makers(
    model: nn.Module, inputs: tuple[Array, ...], keep: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """Root -> all layers that make the channels of its group; kept modules are in none."""
    model = copy.deepcopy(model)
    names = {module: name for name, module in model.named_modules()}
    found: dict[str, tuple[str, ...]] = {}
    graph = dependencies(model, inputs)
    for group in graph.get_all_groups(ignored_layers=[], root_module_types=KINDS):
        if any(kept(names.get(dep.target.module, ""), keep) for dep, _ in group):
            continue
        made = [module for module in makers_of(graph, group) if module in names]
        plain = [m for m in made if getattr(m, "groups", 1) == 1]  # a depthwise one follows its producer
        if plain:
            found[names[plain[0]]] = tuple(dict.fromkeys(names[m] for m in (plain[0], *made)))
    return found


def _output_shapes(
    model: nn.Module, roots: Mapping[str, int], inputs: tuple[Array, ...]
) -> dict[str, int]:
    """Root -> elements of its output per example and channel, in order of execution."""
    shapes: dict[str, int] = {}

    def remember(root: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            shapes.setdefault(root, output.numel() // (output.shape[0] * roots[root]))

        return hook

    with hooked(model, {root: remember(root) for root in roots}):
        outputs(model, inputs)
    return shapes


def producers(model: nn.Module, graph: Any, group: Any) -> dict[str, list[int]]:
    """The tensors whose removed rows make a channel exactly zero when they are zeroed."""
    names = {module: name for name, module in model.named_modules()}
    found: dict[str, list[int]] = {}
    for dep, rows in group:
        module = dep.target.module
        if not graph.is_out_channel_pruning_fn(dep.handler) or module not in names:
            continue
        for name, _ in module.named_parameters(recurse=False):
            if len(_by_channel(module, name)) == graph.get_out_channels(module):
                found[f"{names[module]}.{name}"] = list(rows)
    return found


def _by_channel(module: nn.Module, name: str) -> Tensor:
    """The parameter as a view whose first dimension is the output channel."""
    tensor: Tensor = getattr(module, name)
    transposed = getattr(module, "transposed", False) and name == "weight"
    return tensor.transpose(0, 1) if transposed else tensor


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
