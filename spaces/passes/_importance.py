"""How much a channel matters: one score for each channel of a group, the least ones leave.

Magnitudes, geometric median and batch-norm scales are torch-pruning's. What asks for data is done here,
at the layers that read the channel: as a gate on all its readers, a channel is out when the gate is 0,
whatever norms and activations stand before them.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from ...errors import GateError
from ..subject import Split, Subject
from ._base import Array
from ._channels import KINDS, dependencies, group_of, tensors

Scores = dict[str, Tensor]  # root -> (width,)
Reader = tuple[nn.Module, list[int], list[int], bool]  # layer, its channels, the root's, is it an output

WEIGHTS: dict[str, Callable[[], Any]] = {
    "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "fpgm": lambda: tp.importance.FPGMImportance(p=2),  # He et al. 2019, arXiv:1811.00250
    "bn_scale": tp.importance.BNScaleImportance,  # Liu et al. 2017, arXiv:1708.06519
}
CRITERIA = (*WEIGHTS, "taylor", "activation")
EXAMPLES, BATCH = 512, 64


def scores(
    model: nn.Module,
    roots: Iterable[str],
    criterion: str,
    inputs: tuple[Array, ...],
    subject: Subject | None = None,
) -> Scores:
    """Scores of the channels of each root's group, (width,), larger for what matters more.

    `taylor` is the expected square of the change of the loss (Molchanov et al. 2019, arXiv:1906.10771),
    in the same unit for every group: the one to weigh groups against each other with. All others are
    relative to the mean of their group. `activation` is the mean absolute value that readers get. Both
    ask the subject for calibration data. `bn_scale` falls back to l2 for groups without batch norm.
    Raises GateError: no group has a batch norm, or a score is not finite.
    """
    model = copy.deepcopy(model)
    graph = dependencies(model, inputs)
    groups = {root: group_of(graph, model.get_submodule(root)) for root in roots}
    if criterion in WEIGHTS:
        found = _of_weights(groups, criterion)
    else:
        assert subject is not None, "taylor and activation need calibration data"
        found = _of_data(model, graph, groups, subject, criterion)
    for root, each in found.items():
        if not torch.isfinite(each).all():
            raise GateError(f"criterion {criterion!r} is not finite for {root}")
    return found


def least(found: Mapping[str, Tensor], plan: Mapping[str, int]) -> dict[str, list[int]]:
    """Root -> the channels that leave when it is narrowed to its planned width."""
    return {root: sorted(found[root].argsort()[: len(found[root]) - width].tolist())
            for root, width in plan.items()}


def _of_weights(groups: Mapping[str, Any], criterion: str) -> Scores:
    importance, magnitude = WEIGHTS[criterion](), WEIGHTS["l2"]()
    found = {root: importance(group) for root, group in groups.items()}
    if all(each is None for each in found.values()):
        raise GateError(f"criterion {criterion!r} gives no score: no group of this model has a batch norm "
                        "with a scale. Take l2, fpgm, taylor or activation")
    return {root: magnitude(groups[root]) if each is None else each for root, each in found.items()}


def _of_data(
    model: nn.Module, graph: Any, groups: Mapping[str, Any], subject: Subject, criterion: str
) -> Scores:
    data = subject.split("calibration")
    data = data.take(slice(0, EXAMPLES))
    readers = {root: list(_readers(graph, group)) for root, group in groups.items()}
    widths = {root: len(group[0].idxs) for root, group in groups.items()}
    tally = _squared_changes if criterion == "taylor" else _magnitudes
    found = {root: torch.zeros(width) for root, width in widths.items()}
    for batch in data.batches(BATCH):
        for root, each in tally(model.eval(), readers, widths, batch, subject).items():
            found[root] += each / len(data)
    if criterion == "taylor":
        return found
    return {root: each / each.mean().clamp_min(1e-12) for root, each in found.items()}


def _magnitudes(
    model: nn.Module, readers: Mapping[str, Sequence[Reader]], widths: Mapping[str, int],
    batch: Split, subject: Subject,
) -> Scores:
    """Sum over the examples of the mean absolute value that readers get."""
    sums = {root: torch.zeros(width) for root, width in widths.items()}

    def seen(root: str, own: Sequence[int], to: Sequence[int], values: Tensor) -> None:
        each = values.abs().mean(1).sum(0)
        sums[root].index_add_(0, torch.tensor(to), each[own])

    with torch.no_grad(), _Hooks(readers, len(batch), seen):
        model(*tensors(batch.inputs))
    return sums


def _squared_changes(
    model: nn.Module, readers: Mapping[str, Sequence[Reader]], widths: Mapping[str, int],
    batch: Split, subject: Subject,
) -> Scores:
    """Sum over the examples of the squared derivative of the loss by the gate, at gate 1."""
    slopes = {root: torch.zeros(len(batch), width) for root, width in widths.items()}

    def seen(root: str, own: Sequence[int], to: Sequence[int], values: Tensor) -> None:
        def back(gradient: Tensor) -> None:
            each = (values.detach() * gradient).sum(1) * len(batch)  # the loss is a mean over the batch
            slopes[root].index_add_(1, torch.tensor(to), each[:, own])

        values.register_hook(back)  # type: ignore[no-untyped-call]

    with torch.enable_grad(), _Hooks(readers, len(batch), seen):
        model.zero_grad(set_to_none=True)
        loss = subject.loss(model(*tensors(batch.inputs)), torch.from_numpy(batch.targets))
        loss.backward()  # type: ignore[no-untyped-call]
    return {root: (each**2).sum(0) for root, each in slopes.items()}


class _Hooks:
    """While it is open, `seen` gets what each reader reads, as (examples, positions, channels)."""

    def __init__(
        self, readers: Mapping[str, Sequence[Reader]], examples: int, seen: Callable[..., None]
    ) -> None:
        self.readers, self.examples, self.seen = readers, examples, seen

    def __enter__(self) -> None:
        self.hooks = [self._hook(module, is_output, partial(self.seen, root, own, to))
                      for root, found in self.readers.items() for module, own, to, is_output in found]

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _hook(self, module: nn.Module, is_output: bool, seen: Callable[[Tensor], None]) -> Any:
        axis = -1 if isinstance(module, nn.Linear) else 1

        def through(x: Tensor) -> Tensor:
            """A copy of its own, so that its gradient is that of this reader alone."""
            last = x.movedim(axis, -1)
            flat = last.reshape(self.examples, -1, last.shape[-1]).clone()
            seen(flat)
            return flat.reshape(last.shape).movedim(-1, axis)

        if is_output:
            return module.register_forward_hook(lambda m, args, out: through(out))
        return module.register_forward_pre_hook(lambda m, args: (through(args[0]), *args[1:]))


def _readers(graph: Any, group: Any) -> Iterator[Reader]:
    """The layers that read the channels; where none does (attention), the ones that make them."""
    found = [(dep, item.root_idxs, list(item.idxs)) for item in group.items for dep in (item.dep,)
             if isinstance(dep.target.module, KINDS) and None not in item.root_idxs]
    inputs = [entry for entry in found if not graph.is_out_channel_pruning_fn(entry[0].handler)]
    for dep, to, own in inputs or found:
        yield dep.target.module, own, list(to), not inputs
