"""Weights in few bits, activations left alone: round to nearest, or with error compensation (GPTQ).

4- and 8-bit matrix products as ONNX Runtime's block-wise MatMulNBits, which has a kernel. Everything
else as packed integers that any ONNX runtime unpacks when it loads the file (`graph/packing.py`).
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import onnx
import torch

from ...errors import GateError
from ...hardware_profiles.profile import Ability
from ..graph import nbits
from ..graph.compensation import compensated
from ..graph.grid import Grid, grid, layouts
from ..graph.packing import pack_, packed
from ..knob import Choice, IntRange, Knob, Value
from . import _onnx
from ._base import Calibration, FilePass, Left, Scope

SMALLEST = 256  # weights; below this the scales outweigh what is saved
LEAST = 0.5  # cosine to the weight before: few levels without training leave that much
EXAMPLES = 128  # of the calibration data, that error compensation looks at


@dataclass(frozen=True, slots=True)
class WeightOnly:
    """`bits` 8, 4, 3 or 2; `block` inputs of a matrix product share a scale, 0 for all of an output.

    `method`: "rtn" rounds to nearest, "gptq" compensates errors. `conv_block` is the block of
    convolutions and Gemm.
    """

    bits: int
    block: int
    symmetric: bool
    method: str = "rtn"
    conv_block: int = 0

    def __str__(self) -> str:
        blocks = f", blocks of {self.conv_block}" if self.conv_block else ""
        return f"{self.bits}-bit weights{' ' + self.method if self.method != 'rtn' else ''}{blocks}"


class WeightOnlyPass(FilePass):
    """`WeightOnly`, see the module."""

    name = "weight_only"
    does = "8-, 4-, 3- or 2-bit weights, activations in float"
    paper = "GPTQ, arXiv:2210.17323"
    ability = "int4_weights"
    step = WeightOnly
    tolerance = 10.0  # two bits without training may give anything; it is scored as it is

    def refused(self, scope: Scope) -> str | None:
        share = scope.share(*_onnx.WEIGHTED)
        return None if share >= 0.05 else f"its operators hold {share:.1%} of the weights"

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        knobs: dict[str, Knob] = {"bits": Choice((8, 4, 3, 2)), "method": Choice(("rtn", "gptq")),
                                  "symmetric": Choice((True, False))}
        if scope.share("MatMul") >= 0.05:
            knobs["block"] = IntRange(32, 128, step=32)
        if scope.share("Conv", "Gemm") >= 0.05:
            knobs["conv_block"] = Choice((0, 32, 64))
        return knobs

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        names = self.knobs(scope)
        settings: tuple[dict[str, Value], ...] = ({"bits": 8, "method": "rtn"}, {"bits": 4, "method": "gptq"})
        common: dict[str, Value] = {"block": 32, "symmetric": True, "conv_block": 0}
        return tuple({name: value for name, value in (common | setting).items() if name in names}
                     for setting in settings)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> WeightOnly:
        return WeightOnly(int(values["bits"]), int(values.get("block", 32)),
                          bool(values.get("symmetric", True)), str(values.get("method", "rtn")),
                          int(values.get("conv_block", 0)))

    def needs(self, step: WeightOnly) -> Ability | None:
        return "int4_weights" if step.bits == 4 else "low_bit_weights"

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        return Left(1.0, int(values["bits"]) / 32)

    def apply(
        self, step: WeightOnly, model: onnx.ModelProto, data: Calibration, keep: Set[str] = frozenset()
    ) -> onnx.ModelProto:
        bits = {name: step.bits for name in large(model) if name not in keep}
        return quantized(model, bits, step.block, step.symmetric, step.method, data, step.conv_block)

    def check(self, step: WeightOnly, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        """Weights were packed with so many levels, each near what it was; the file shrank."""
        found = {**packed(after), **nbits.read(after)}
        check_grids("weight_only", before, after, found, {2**step.bits})
        _onnx.check_smaller("weight_only", before, after)


def quantized(
    model: onnx.ModelProto,
    bits: Mapping[str, int],
    block: int,
    symmetric: bool,
    method: str,
    data: Calibration,
    conv_block: int = 0,
) -> onnx.ModelProto:
    """A copy with these weights (name -> bits) on grids. `method` "gptq" needs calibration data."""
    found, layout = _onnx.weights(model), layouts(model)
    products = {n.input[1] for n in model.graph.node if n.op_type == "MatMul"}
    grids = {name: grid(_onnx.array(found[name]), layout[name], 2**count,
                        block if name in products else conv_block, symmetric, search=method == "gptq")
             for name, count in bits.items() if name in layout}
    if method == "gptq":
        grids = compensated(model, grids, _examples(data))
    return written(model, grids)


def written(model: onnx.ModelProto, grids: Mapping[str, Grid]) -> onnx.ModelProto:
    """A copy of the model with these grids: as MatMulNBits where that has a kernel, else packed."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    kernels = nbits.put_(result, grids)
    pack_(result, {name: found for name, found in grids.items() if name not in kernels})
    return result


def large(model: onnx.ModelProto) -> list[str]:
    """The weights that are worth the scales."""
    return [name for name, tensor in _onnx.weights(model).items() if np.prod(tensor.dims) >= SMALLEST]


def check_grids(
    name: str, before: onnx.ModelProto, after: onnx.ModelProto, found: Mapping[str, Grid], levels: Set[int]
) -> None:
    """Every grid has an allowed number of levels and is near the weight that it replaces.

    Near in direction and length: another weight, or wrong scales, point elsewhere. Raises GateError.
    """
    if not found:
        raise GateError(f"{name} quantized no weight")
    _onnx.check_weights(name, before, after, LEAST)
    was = _onnx.weights(before)
    for key, each in found.items():
        if each.levels not in levels:
            raise GateError(f"{name}: {key} has {each.levels} levels, allowed: {sorted(levels)}")
        if key in was:
            _onnx.check_near(name, key, _onnx.array(was[key]), each.weight, LEAST)


def _examples(data: Calibration) -> tuple[torch.Tensor, ...]:
    if not data:
        raise GateError("error compensation needs calibration data, the subject has none")
    return tuple(torch.from_numpy(np.ascontiguousarray(array[:EXAMPLES])) for array in data.values())
