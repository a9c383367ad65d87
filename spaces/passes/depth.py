"""Whole residual blocks leave: each is replaced by the identity that its shortcut is.

Veit et al. 2016, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks",
arXiv:1605.06431, for convolutions; Sajjad et al. 2020, arXiv:2004.03844, for transformers. The blocks
are ranked by what the loss on calibration data rises when one alone is bypassed.

A block is recognised by trying: with its weights at zero it must pass its input through. A transformer
layer that normalises last (post-norm) then gives its input normalised, and counts as well: within a
stack its input is normalised already, and dropping layers of such stacks (BERT's) is what is done.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import GateError
from ..hooks import hooked, step_by_step
from ..keep import kept
from ..knob import IntRange, Knob, Value
from ..subject import Array, Subject
from . import _modules
from ._base import Left, Materials, ModulePass, Scope
from ._modules import Call, calls, check_same, count, outputs, shared

TOLERANCE = 1e-4  # of the largest output
PASSED = 1e-3  # of the largest input: what a norm's epsilon may add
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True, slots=True)
class Depth:
    """Paths of the residual blocks to remove."""

    blocks: tuple[str, ...]

    def __str__(self) -> str:
        return f"depth -{len(self.blocks)} ({', '.join(self.blocks)})"


class Bypass(nn.Identity):
    """Stands where a block was: gives its first input, whatever else comes with it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        # torch's encoder and decoder ask their first layer how it wants its batch.
        attention = getattr(block, "self_attn", None)
        self.self_attn = SimpleNamespace(batch_first=getattr(attention, "batch_first", False))

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return input


class DepthPass(ModulePass):
    """`Depth`, see the module."""

    name = "depth"
    does = "removes whole residual blocks, those that the loss misses least first"
    paper = "Veit et al. 2016, arXiv:1605.06431; Sajjad et al. 2020, arXiv:2004.03844"
    ability = None
    step = Depth

    def refused(self, scope: Scope) -> str | None:
        return None if scope.blocks else "no residual block of this model can be bypassed"

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {"blocks": IntRange(1, max(1, len(scope.blocks) - 1))}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        return ({"blocks": max(1, len(scope.blocks) // 4)},)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Depth | None:
        blocks = scope.blocks[: int(values.get("blocks", 1))]
        return Depth(blocks) if blocks else None

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        share = 1 - int(values["blocks"]) / (1 + len(scope.blocks))
        return Left(share, share)

    def apply(self, step: Depth, model: nn.Module, materials: Materials) -> nn.Module:
        """A copy without these blocks. Raises GateError: no such block, a kept one, or others went."""
        there = removable(model, materials.inputs, materials.keep)
        if unknown := [path for path in step.blocks if path not in there]:
            raise GateError(f"{', '.join(unknown)}: no residual block that can be removed; there are "
                            f"{', '.join(there) or 'none'}")
        shallow = copy.deepcopy(model)
        remove_(shallow, step.blocks)
        check(model, shallow, step.blocks, materials.inputs)
        return shallow


def removable(model: nn.Module, inputs: tuple[Array, ...], keep: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Paths of the residual blocks that can be bypassed, in order of execution.

    The outermost ones, but never a mere chain of blocks: a module all of whose layers lie in smaller blocks.
    """
    tied = shared(model)
    called = calls(model, inputs, nn.Module)
    residual = [path for path, call in called.items()
                if _layers(model, path) and not _frozen(model, path, tied, keep)
                and _passes(model.get_submodule(path), call)]
    blocks = [path for path in residual if not _is_chain(model, path, residual)]
    outermost = [path for path in blocks if not any(path.startswith(f"{outer}.") for outer in blocks)]
    order = list(called)
    return tuple(sorted((path for path in outermost if _survives(model, path, inputs)), key=order.index))


def ranked(
    model: nn.Module, inputs: tuple[Array, ...], keep: tuple[str, ...], subject: Subject | None
) -> tuple[str, ...]:
    """The removable blocks, those first without which the calibration loss rises least; `subject` judges."""
    blocks = removable(model, inputs, keep)
    if subject is None or len(blocks) < 2:
        return blocks
    losses = {path: _loss(model, path, subject) for path in blocks}
    return tuple(sorted(blocks, key=losses.__getitem__))


def remove_(model: nn.Module, blocks: Sequence[str]) -> None:
    """Puts a bypass in the place of each block."""
    for path in blocks:
        model.set_submodule(path, Bypass(model.get_submodule(path)))
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, Bypass) for m in module.layers):
            module.use_nested_tensor = False  # that path reads the weights of its first layer


def check(model: nn.Module, shallow: nn.Module, blocks: Sequence[str], inputs: tuple[Array, ...]) -> None:
    """Raises GateError unless exactly these blocks left: the output is that of the model around them."""
    if count(shallow) >= count(model):
        raise GateError("removing blocks left the number of weights as it was")
    try:
        with hooked(model, dict.fromkeys(blocks, _around)):
            want = outputs(model, inputs)
        got = outputs(shallow, inputs)
    except Exception as error:
        raise GateError(f"the model does not run without {', '.join(blocks)}: {error}") from error
    check_same(want, got, TOLERANCE, f"other blocks were removed than {', '.join(blocks)}")


def _around(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    return args[0]


def _layers(model: nn.Module, path: str) -> list[str]:
    return [f"{path}.{name}" for name, module in model.get_submodule(path).named_modules()
            if name and isinstance(module, _modules.WEIGHTED)]


def _frozen(model: nn.Module, path: str, tied: frozenset[str], keep: tuple[str, ...]) -> bool:
    inside = [path, *(f"{path}.{name}" for name, _ in model.get_submodule(path).named_modules() if name)]
    return any(name in tied or kept(name, keep) for name in inside)


def _is_chain(model: nn.Module, path: str, residual: Sequence[str]) -> bool:
    smaller = tuple(f"{other}." for other in residual if other.startswith(f"{path}."))
    return all(layer.startswith(smaller) for layer in _layers(model, path))


def _passes(module: nn.Module, call: Call) -> bool:
    """Whether the module, called so once, gives its first input back (or that normalised) at zero weights."""
    x = call.args[0] if call.args else None
    if call.times != 1 or not isinstance(x, Tensor) or not isinstance(call.output, Tensor):
        return False
    if x.shape != call.output.shape or not x.is_floating_point() or not x.any():
        return False
    try:
        with torch.no_grad(), step_by_step():
            output = _at_zero(module)(*call.args, **call.kwargs)
    except Exception:  # user code may divide by a weight, or look one up
        return False
    normalised = functional.layer_norm(x, x.shape[-1:])
    return any((output - like).abs().max() <= PASSED * x.abs().max() for like in (x, normalised))


def _at_zero(module: nn.Module) -> nn.Module:
    """A copy that computes nothing of its own: weights and shifts at zero, norms at scale one."""
    module = copy.deepcopy(module).eval()
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            parameter.data.zero_()
        if isinstance(part, NORMS) and isinstance(part.weight, Tensor):
            part.weight.data.fill_(1.0)
        if isinstance(mean := getattr(part, "running_mean", None), Tensor):
            mean.zero_()
    return module


def _survives(model: nn.Module, path: str, inputs: tuple[Array, ...]) -> bool:
    trial = copy.deepcopy(model)
    try:
        remove_(trial, [path])
        check(model, trial, [path], inputs)
    except Exception:
        return False
    return True


def _loss(model: nn.Module, path: str, subject: Subject) -> float:
    """The mean loss on calibration data around one block; not a number counts as the worst."""
    data, total = subject.split("calibration").take(slice(0, _modules.EXAMPLES)), 0.0
    with hooked(model, {path: _around}), torch.no_grad():
        for batch in data.batches(_modules.BATCH):
            found = outputs(model, batch.inputs)
            total += float(subject.loss(found[0], torch.from_numpy(batch.targets))) * len(batch)
    return total / len(data) if total == total else float("inf")
