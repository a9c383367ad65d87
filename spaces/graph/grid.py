"""Weights as whole numbers on a grid: how a float weight is laid out, rounded and turned back."""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from .weighted import WEIGHTED, weights

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# Where zero lies on a symmetric grid. With up to four levels every level is needed, so zero lies
# between two of them; with more, one level is given up so that zero itself is on the grid.
_ZERO = {2: 0.5, 3: 1.0, 4: 1.5}
SHRINKS = np.linspace(1.0, 0.4, 25)  # of the largest weight: ranges that are tried


@dataclass(frozen=True)
class Layout:
    """How the weight of one node is seen as a matrix, a row for every output.

    `turned`: stored with the outputs last, as MatMul wants them.
    """

    shape: tuple[int, ...]
    turned: bool = False

    def matrix(self, weight: Floats) -> Floats:
        """(outputs, inputs of one output)."""
        return weight.T if self.turned else weight.reshape(len(weight), -1)

    def weight(self, matrix: Floats) -> Floats:
        return np.ascontiguousarray(matrix.T) if self.turned else matrix.reshape(self.shape)


def layout(node: onnx.NodeProto, shape: tuple[int, ...]) -> Layout:
    """Of the weight that a Conv, ConvTranspose, Gemm or MatMul reads."""
    if node.op_type == "Gemm":
        return Layout(shape, not next((a.i for a in node.attribute if a.name == "transB"), 0))
    return Layout(shape, node.op_type == "MatMul")


def layouts(model: onnx.ModelProto) -> dict[str, Layout]:
    """Weight name -> layout, for every constant matrix-like weight."""
    found = weights(model)
    return {node.input[1]: layout(node, tuple(found[node.input[1]].dims))
            for node in model.graph.node if node.op_type in WEIGHTED and node.input[1] in found}


@dataclass(frozen=True)
class Grid:
    """weight = (integers - zero) * scale, a scale for each group of `size` inputs of one output."""

    integers: Bytes  # (rows, groups, size), 0 .. levels - 1
    scale: Floats  # (rows, groups, 1)
    zero: Floats  # (rows, groups, 1), or (1, 1, 1) where all are the same
    levels: int
    layout: Layout

    @property
    def weight(self) -> Floats:
        """The float weight that the integers stand for, in the shape of the initializer."""
        dense = (self.integers.astype(np.float32) - self.zero) * self.scale
        return self.layout.weight(dense.reshape(len(dense), -1))

    @property
    def lowest(self) -> int:
        return lowest(self.levels, self.zero)


def lowest(levels: int, zero: Floats) -> int:
    """The least integer in use: one level is given up where zero is to lie on a symmetric grid."""
    return 1 if levels > 4 and zero.size == 1 and float(zero.flat[0]) == levels / 2 else 0


def rounded(grouped: Floats, scale: Floats, zero: Floats, levels: int) -> Bytes:
    """Whole numbers 0 .. levels - 1, each the nearest that stands for its weight."""
    steps = np.rint(grouped / scale + zero)
    whole: Bytes = np.clip(steps, lowest(levels, zero), levels - 1).astype(np.uint8)
    return whole


def grid(
    weight: Floats, layout: Layout, levels: int, block: int = 0, symmetric: bool = True, search: bool = False
) -> Grid:
    """Round to nearest. `block`: inputs that share a scale, 0 for all of an output.

    A block that does not divide the inputs counts as 0. `search` shrinks each range to what leaves
    the least squared error; else ranges reach from the least to the largest weight.
    """
    matrix = layout.matrix(weight.astype(np.float32))
    size = block if block and matrix.shape[1] % block == 0 else matrix.shape[1]
    grouped = matrix.reshape(len(matrix), -1, size)
    shrinks = SHRINKS if search else SHRINKS[:1]
    tries = [_ranges(grouped * np.float32(1), float(shrink), levels, symmetric) for shrink in shrinks]
    errors = np.stack([_error(grouped, scale, zero, levels) for scale, zero in tries])
    best = errors.argmin(0)[None]
    scale = np.take_along_axis(np.stack([scale for scale, _ in tries]), best, 0)[0]
    zero = tries[0][1] if symmetric else np.take_along_axis(np.stack([z for _, z in tries]), best, 0)[0]
    return Grid(rounded(grouped, scale, zero, levels), scale, zero, levels, layout)


def _ranges(grouped: Floats, shrink: float, levels: int, symmetric: bool) -> tuple[Floats, Floats]:
    """Scales and zeros of ranges that are `shrink` of the full ones."""
    if symmetric:
        zero = _ZERO.get(levels, levels / 2)
        scale = shrink * np.abs(grouped).max(2, keepdims=True) / (levels - 1 - zero)
        return _positive(scale), np.full((1, 1, 1), zero, np.float32)
    low = np.minimum(grouped.min(2, keepdims=True), 0) * shrink
    high = np.maximum(grouped.max(2, keepdims=True), 0) * shrink
    scale = _positive((high - low) / (levels - 1))
    return scale, np.clip(np.rint(-low / scale), 0, levels - 1).astype(np.float32)


def _positive(scale: Floats) -> Floats:
    return np.where(scale > 0, scale, 1).astype(np.float32)


def _error(grouped: Floats, scale: Floats, zero: Floats, levels: int) -> Floats:
    back = (rounded(grouped, scale, zero, levels).astype(np.float32) - zero) * scale
    total: Floats = ((back - grouped) ** 2).sum(2, keepdims=True)
    return total
