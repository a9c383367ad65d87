"""What layers cost at other widths, by arithmetic: no plan has to be exported to be compared.

A cost is a sum of price x feature over kernels, and the geometric mean of that over typical machines where
none was measured, as in `hardware_profiles/predict.py`. The prices are plain numbers that a step can
store, so that a recipe says the same everywhere. Kernels are those that the forward pass of a layer shows;
what is fused into them (norm, activation, addition) goes with them.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...hardware_profiles.features import NAMES, features
from ...hardware_profiles.kernel import Kernel
from ...hardware_profiles.load import load
from ...hardware_profiles.prior import beliefs
from ...hardware_profiles.profile import HardwareProfile
from ..hooks import hooked
from ._base import Array
from ._channels import KINDS, dependencies, group_of
from ._modules import outputs

Prices = tuple[tuple[str, *tuple[float, ...]], ...]  # feature, microseconds per unit on each machine
_MACS = ("winograd", "conv", "pw", "dw", "gconv", "mm", "fc")
_BY_WEIGHT, _BY_ACTIVATION = ("weights",), ("computed", "unfolded")
_USED = (*_MACS, *_BY_WEIGHT, *_BY_ACTIVATION, "depth")  # a launch costs the same at any width
MULTIPLY_ADDS: Prices = tuple((name, 1.0) for name in _MACS)  # where no machine decides


@dataclass(frozen=True, slots=True)
class Layer:
    """One call of a layer; `reads` and `makes`: root -> channels of the layer for one of the group."""

    path: str
    kernel: Kernel
    reads: Mapping[str, int]
    makes: Mapping[str, int]

    def at(self, plan: Mapping[str, int], widths: Mapping[str, int]) -> Kernel:
        """The kernel after the plan (root -> width); `widths` are those before it."""
        fewer = [sum(n * (widths[root] - plan.get(root, widths[root])) for root, n in side.items())
                 for side in (self.reads, self.makes)]
        return _narrowed(self.kernel, self.kernel.c_in - fewer[0], self.kernel.c_out - fewer[1])


@dataclass(frozen=True)
class Cost:
    """Cost of a plan, of the layers it can change, without launches: microseconds or what prices are in."""

    layers: Sequence[Layer]
    widths: Mapping[str, int]  # root -> width before any plan
    kind: str  # of a hardware profile
    prices: Prices

    def __call__(self, plan: Mapping[str, int]) -> float:
        return self.of(layer.at(plan, self.widths) for layer in self.layers)

    def of(self, kernels: Iterator[Kernel]) -> float:
        machines = zip(*(_priced(kernel, self.kind, self.prices) for kernel in kernels), strict=True)
        sums = [math.fsum(each) for each in machines]
        return math.exp(math.fsum(map(math.log, sums)) / len(sums))


def prices(profile: HardwareProfile) -> Prices:
    """What the profile charges for each feature: its calibration, else the typical machines of its kind.

    In fp32 where it runs that; bytes of other formats are folded in, so kernels are counted at 4 bytes.
    """
    dtype = "fp32" if "fp32" in profile.precisions else next(iter(profile.precisions))
    precision, known = profile.precisions[dtype], profile.calibration.get(dtype)
    machines = ([known.coefficients] if known else
                [dict(zip(NAMES, np.exp(each.mean), strict=True)) for each in beliefs(profile, dtype)])
    bytes_of = {**dict.fromkeys(_BY_WEIGHT, precision.weight_bytes),
                **dict.fromkeys(_BY_ACTIVATION, precision.activation_bytes)}
    return tuple((name, *(float(f"{each[name] * bytes_of.get(name, 4.0) / 4.0:.4g}") for each in machines))
                 for name in _USED)


def layers(model: nn.Module, widths: Mapping[str, int], inputs: tuple[Array, ...]) -> list[Layer]:
    """Every layer that makes or reads the channels of these groups (root -> width)."""
    model = copy.deepcopy(model)
    graph = dependencies(model, inputs)
    reads: dict[nn.Module, dict[str, int]] = {}
    makes: dict[nn.Module, dict[str, int]] = {}
    for root, width in widths.items():
        for dep, rows in group_of(graph, model.get_submodule(root)):
            sides = ((reads, graph.is_in_channel_pruning_fn), (makes, graph.is_out_channel_pruning_fn))
            for side, is_of in sides:
                if isinstance(dep.target.module, KINDS) and is_of(dep.handler):
                    side.setdefault(dep.target.module, {})[root] = len(rows) // width
    names = {module: name for name, module in model.named_modules()}
    touched = [names[module] for module in {**makes, **reads} if module in names]
    return [Layer(path, kernel, reads.get(module, {}), makes.get(module, {}))
            for path, kernel in kernels(model, touched, inputs) for module in (model.get_submodule(path),)]


def kernels(
    model: nn.Module, paths: Sequence[str], inputs: tuple[Array, ...]
) -> list[tuple[str, Kernel]]:
    """(path, kernel) of each call of these convolutions and linear layers, in the order of execution."""
    found: list[tuple[str, Kernel]] = []
    batch = len(inputs[0])

    def remember(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: Any, output: Tensor) -> None:
            found.append((path, _kernel(module, args[0].numel() // batch, output.numel() // batch)))

        return hook

    with hooked(model, {path: remember(path) for path in paths}):
        outputs(model, inputs)
    return found


def _kernel(module: nn.Module, read: int, made: int) -> Kernel:
    """One call of a layer that reads and makes so many elements an example."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    if isinstance(module, nn.Linear):
        rows = made // module.out_features
        return Kernel("fc" if rows == 1 else "mm", rows * weight.numel(), weight.numel(), read, made,
                      module.in_features, module.out_features, 1, 1)
    assert isinstance(module, nn.modules.conv._ConvNd)
    size, groups = module.kernel_size, module.groups
    dense = "pw" if max(size) == 1 else "conv"
    op = dense if groups == 1 else "dw" if groups == module.in_channels else "gconv"
    positions = read // module.in_channels if module.transposed else made // module.out_channels
    return Kernel(op, positions * weight.numel(), weight.numel(), read, made, module.in_channels,
                  module.out_channels, max(size), groups)


def _narrowed(kernel: Kernel, c_in: int, c_out: int) -> Kernel:
    wide_in, wide_out = kernel.c_in, kernel.c_out
    depthwise = kernel.op == "dw"
    here, there = (c_out, wide_out) if depthwise else (c_in * c_out, wide_in * wide_out)
    return replace(kernel, macs=kernel.macs * here // there, weights=kernel.weights * here // there,
                   in_elems=kernel.in_elems * c_in // wide_in, out_elems=kernel.out_elems * c_out // wide_out,
                   c_in=c_in, c_out=c_out, groups=c_in if depthwise else kernel.groups)


@cache
def _machine(kind: str) -> HardwareProfile:
    """A machine of the kind in fp32; of its numbers, only the kind and the bytes have a say here."""
    return load("host-cpu").model_copy(update={"kind": kind})


@cache
def _priced(kernel: Kernel, kind: str, charged: Prices) -> tuple[float, ...]:
    """Microseconds on each machine."""
    counted = dict(zip(NAMES, features([kernel], _machine(kind), "fp32"), strict=True))
    machines = range(len(charged[0]) - 1)
    return tuple(float(sum(each[i] * counted[name] for name, *each in charged)) for i in machines)
