"""What several module passes ask of a torch model: its outputs, its calls, its shared weights."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import GateError
from ..hooks import hooked, step_by_step
from ..subject import Array, Subject

EXAMPLES, BATCH = 256, 64  # calibration examples that a pass looks at
WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.RNNBase)


@dataclass(slots=True)
class Call:
    """How a module was called the first time, and how often in all."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    times: int = 1


def outputs(model: nn.Module, inputs: tuple[Array, ...]) -> list[Tensor]:
    """The outputs of the model in evaluation mode."""
    with torch.no_grad(), step_by_step():
        result = model.eval()(*(torch.from_numpy(array.copy()) for array in inputs))
    return [result] if isinstance(result, Tensor) else list(result)


def calls(model: nn.Module, inputs: tuple[Array, ...], kinds: type | tuple[type, ...]) -> dict[str, Call]:
    """The modules of these kinds that the model calls on the inputs, in order of execution."""
    found: dict[str, Call] = {}

    def remember(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if path in found:
                found[path].times += 1
            else:
                found[path] = Call(args, kwargs, output)

        return hook

    with hooked(model, {path: remember(path) for path, module in model.named_modules()
                         if path and isinstance(module, kinds)}):
        outputs(model, inputs)
    return found


def moments(model: nn.Module, subject: Subject, paths: Collection[str]) -> dict[str, Tensor]:
    """Layer -> mean of x x' over what goes into it on calibration data, (in, in), float64.

    x is an input position of a linear layer, or a pixel of a 1x1 convolution.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = defaultdict(int)

    def add(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            x = args[0].movedim(1, -1) if isinstance(module, nn.Conv2d) else args[0]
            x = x.flatten(0, -2).double()
            sums[path] = sums.get(path, 0) + x.T @ x
            counts[path] += len(x)

        return hook

    with hooked(model, {path: add(path) for path in paths}):
        for batch in subject.split("calibration").take(slice(0, EXAMPLES)).batches(BATCH):
            outputs(model, batch.inputs)
    return {path: sums[path] / counts[path] for path in sums}


def shared(model: nn.Module) -> frozenset[str]:
    """Paths of the modules that own a parameter which is registered in a second place too."""
    places: dict[nn.Parameter, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places[parameter].append(name.rpartition(".")[0])
    return frozenset(path for paths in places.values() if len(paths) > 1 for path in paths)


def linear(model: nn.Module, path: str) -> nn.Linear:
    layer = model.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    return layer


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def check_same(want: list[Tensor], got: list[Tensor], tolerance: float, what: str) -> None:
    """Raises GateError: `what`, and by how much; the tolerance is a share of the largest output."""
    for a, b in zip(want, got, strict=True):
        if a.shape != b.shape:
            raise GateError(f"{what}: the output has shape {tuple(b.shape)} in place of {tuple(a.shape)}")
        worst = (a - b).abs().max().item()
        if not math.isfinite(worst) or worst > tolerance * max(1e-6, a.abs().max().item()):
            raise GateError(f"{what}: an output differs by {worst:.3g}")
