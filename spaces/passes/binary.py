"""Binary and ternary weights: one or two values beside zero an output, 1 or 1.6 bits each.

XNOR-Net's scale for binary (Rastegari et al. 2016, arXiv:1603.05279), TWN's for ternary (Li et al.
2016, arXiv:1605.04711). No runtime has a kernel, so the bits are packed and unpacked in the graph.
Such weights are of no use untrained; `qat` trains them straight through.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import onnx

from ...errors import GateError
from ..graph.grid import Floats, Grid, Layout, layouts, rounded
from ..graph.packing import pack_, packed
from ..knob import Choice, Knob, Value
from . import _onnx
from ._base import Calibration, FilePass, Left, Scope
from .weight_only import SMALLEST, check_grids

LEVELS = {"binary": 2, "ternary": 3}
THRESHOLD = 0.7  # of the mean size: ternary weights below it are zero (TWN)


@dataclass(frozen=True, slots=True)
class Binary:
    """`values` "binary" or "ternary"; the first and the last weighted layer stay in float."""

    values: str

    def __str__(self) -> str:
        return f"{self.values} weights"


class BinaryPass(FilePass):
    """`Binary`, see the module."""

    name = "binary"
    does = "weights of one bit (two values) or 1.6 bits (three), trained straight through"
    paper = "XNOR-Net, arXiv:1603.05279; TWN, arXiv:1605.04711"
    ability = "low_bit_weights"
    step = Binary
    tolerance = float("inf")  # the first guess at two values says nothing; training does

    def refused(self, scope: Scope) -> str | None:
        share = scope.share(*_onnx.WEIGHTED)
        return None if share >= 0.05 else f"its operators hold {share:.1%} of the weights"

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {"values": Choice(tuple(LEVELS))}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        return ({"values": "ternary"},)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Binary:
        return Binary(str(values["values"]))

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        return Left(1.0, (1.0 if values["values"] == "binary" else 1.6) / 32)

    def apply(
        self, step: Binary, model: onnx.ModelProto, data: Calibration, keep: Set[str] = frozenset()
    ) -> onnx.ModelProto:
        names = [name for name in inner(model) if name not in keep]
        if not names:
            raise GateError(f"{step}: no layer between the first and the last has {SMALLEST} weights")
        found, layout = _onnx.weights(model), layouts(model)
        result = onnx.ModelProto()
        result.CopyFrom(model)
        pack_(result, {n: _grid(_onnx.array(found[n]), layout[n], LEVELS[step.values]) for n in names})
        return result

    def check(self, step: Binary, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        check_grids("binary", before, after, packed(after), {LEVELS[step.values]})
        _onnx.check_smaller("binary", before, after)


def inner(model: onnx.ModelProto) -> list[str]:
    """The weights worth packing, without those of the first and the last layer."""
    found = list(_onnx.weights(model).items())
    return [name for name, tensor in found[1:-1] if np.prod(tensor.dims) >= SMALLEST]


def _grid(weight: Floats, layout: Layout, levels: int) -> Grid:
    matrix = layout.matrix(weight.astype(np.float32))[:, None]  # (rows, 1, inputs)
    size = np.abs(matrix)
    mean = size.mean(2, keepdims=True)
    if levels == 2:
        scale = 2 * mean  # two values, half a step to either side of zero
    else:
        large = size > THRESHOLD * mean
        scale = (size * large).sum(2, keepdims=True) / np.maximum(1, large.sum(2, keepdims=True))
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    zero = np.full((1, 1, 1), (levels - 1) / 2, np.float32)
    return Grid(rounded(matrix, scale, zero, levels), scale, zero, levels, layout)
