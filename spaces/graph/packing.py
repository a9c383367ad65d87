"""Grids in a file: integers packed into bytes, and nodes that turn them back into float weights.

The nodes are plain operators (Div, Mod, Cast, Sub, Mul, Reshape, Transpose), which any ONNX runtime
executes and ONNX Runtime folds into a constant when it loads the file: smaller on disk, as fast as before.
"""

import re
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .grid import Bytes, Grid, Layout

# Levels -> bases of the digits that a number is split into, the lowest first. So many digits of one
# base fit into a byte: eight of base 2, five of base 3, four of base 4, two of base 16.
BASES = {2: (2,), 3: (3,), 4: (4,), 8: (4, 2), 16: (16,), 256: (256,)}
DIGITS = {2: 8, 3: 5, 4: 4, 16: 2, 256: 1}


def pack_(model: onnx.ModelProto, grids: Mapping[str, Grid]) -> None:
    """Replaces each of these weights by its packed integers and the nodes that unpack them."""
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    unpack: list[onnx.NodeProto] = []
    for name, grid in grids.items():
        if name in known:
            model.graph.initializer.remove(known[name])
        constants, nodes = _written(name, grid)
        model.graph.initializer.extend(constants)
        unpack += nodes
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(unpack + kept)


def packed(model: onnx.ModelProto) -> dict[str, Grid]:
    """The grids that `pack_` wrote, by weight name."""
    constants = {t.name: t for t in model.graph.initializer}
    names = [name.removesuffix(".grid") for name in constants if name.endswith(".grid")]
    return {name: _read(name, constants, model) for name in names}


def repack_(model: onnx.ModelProto, grids: Mapping[str, Grid]) -> None:
    """Puts other integers and scales on the packed weights of these names; the nodes stay."""
    constants = {t.name: t for t in model.graph.initializer}
    for name, grid in grids.items():
        for tensor in _constants(name, grid):
            constants[tensor.name].CopyFrom(tensor)


def unpacking(model: onnx.ModelProto) -> set[str]:
    """Names of the outputs of all unpacking nodes, the weights themselves included."""
    return {node.output[0] for node in model.graph.node if node.name.endswith(".unpack")}


def _constants(name: str, grid: Grid) -> list[TensorProto]:
    """What differs between two weights of one shape and one number of levels."""
    found = [numpy_helper.from_array(grid.scale, f"{name}.scale"), _zero(name, grid)]
    for i, digits in enumerate(_digits(grid.integers.ravel(), grid.levels)):
        base = BASES[grid.levels][i]
        found.append(numpy_helper.from_array(_bytes(digits, base), f"{name}.q{i}"))
    return found


def _zero(name: str, grid: Grid) -> TensorProto:
    whole = grid.zero.size > 1  # zeros of their own for each group are whole numbers: one byte each
    return numpy_helper.from_array(grid.zero.astype(np.uint8 if whole else np.float32), f"{name}.zero")


def _digits(numbers: Bytes, levels: int) -> list[Bytes]:
    found, rest = [], numbers.astype(np.int64)
    for base in BASES[levels]:
        found.append((rest % base).astype(np.uint8))
        rest //= base
    return found


def _bytes(digits: Bytes, base: int) -> Bytes:
    """Digits of one base, several in a byte, (bytes, 1)."""
    slots = DIGITS[base]
    filled = np.pad(digits, (0, -len(digits) % slots)).reshape(-1, slots).astype(np.int64)
    packed: Bytes = (filled * base ** np.arange(slots)).sum(1, keepdims=True).astype(np.uint8)
    return packed


def _written(name: str, grid: Grid) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """Constants, and nodes whose last output is the weight."""
    writer = _Writer(name)
    bases = BASES[grid.levels]
    parts = [writer.digits(i, base, grid.integers.size) for i, base in enumerate(bases)]
    value = parts[0]
    if len(parts) > 1:  # the higher digit counts as many as the lower one has values
        higher = writer.node("Mul", parts[1], writer.constant("base", np.array(bases[0], np.float32)))
        value = writer.node("Add", value, higher)
    value = writer.node("Reshape", value, writer.constant("grid", np.array(grid.integers.shape, np.int64)))
    zero = f"{name}.zero"
    if grid.zero.size > 1:
        zero = writer.node("Cast", zero, to=TensorProto.FLOAT)
    value = writer.node("Mul", writer.node("Sub", value, zero), f"{name}.scale")
    writer.shaped(value, grid.layout)
    return [*writer.constants, *_constants(name, grid)], writer.nodes


class _Writer:
    """Collects the constants and nodes of one weight."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.constants: list[TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(value, f"{self.name}.{name}"))
        return f"{self.name}.{name}"

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{self.name}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}.unpack", **attributes))
        return output

    def digits(self, plane: int, base: int, count: int) -> str:
        """The digits of one base, as floats, (count,)."""
        stored, slots = f"{self.name}.q{plane}", DIGITS[base]
        if slots == 1:
            return self.node("Cast", stored, to=TensorProto.FLOAT)
        # OpenVINO divides bytes wrongly, and folds no sum of integers: hence the casts.
        found = self.node("Cast", stored, to=TensorProto.INT32)
        powers = self.constant(f"powers{plane}", (base ** np.arange(slots)).astype(np.int32)[None])
        found = self.node("Div", found, powers)
        found = self.node("Mod", found, self.constant(f"base{plane}", np.array(base, np.int32)))
        found = self.node("Cast", found, to=TensorProto.FLOAT)
        flat = self.node("Reshape", found, self.constant(f"flat{plane}", np.array([-1], np.int64)))
        if count % slots == 0:
            return flat
        start, stop = (self.constant(f"{key}{plane}", np.array([at], np.int64))
                       for key, at in (("from", 0), ("to", count)))
        return self.node("Slice", flat, start, stop)

    def shaped(self, value: str, layout: Layout) -> None:
        """The last nodes: from (rows, groups, size) to the shape of the weight."""
        if layout.turned:
            turned = np.array(layout.shape[::-1], np.int64)
            value = self.node("Reshape", value, self.constant("rows", turned))
            self.node("Transpose", value, output=self.name, perm=[1, 0])
        else:
            shape = self.constant("shape", np.array(layout.shape, np.int64))
            self.node("Reshape", value, shape, output=self.name)


def _read(name: str, constants: Mapping[str, TensorProto], model: onnx.ModelProto) -> Grid:
    def array(key: str) -> NDArray[np.generic]:
        return numpy_helper.to_array(constants[f"{name}.{key}"])

    shape = tuple(int(n) for n in array("grid"))
    turned = f"{name}.rows" in constants
    dims = array("rows")[::-1] if turned else array("shape")
    bases = tuple(_base(name, plane, constants) for plane in range(_planes(name, constants)))
    levels = next(levels for levels, known in BASES.items() if known == bases)
    numbers = np.zeros(prod(shape), np.int64)
    for plane, base in reversed(list(enumerate(bases))):
        slots = DIGITS[base]
        digits = array(f"q{plane}").astype(np.int64).reshape(-1, 1) // base ** np.arange(slots) % base
        numbers = numbers * base + digits.ravel()[: prod(shape)]
    layout = Layout(tuple(int(n) for n in dims), turned)
    return Grid(numbers.reshape(shape).astype(np.uint8), array("scale").astype(np.float32),
                array("zero").astype(np.float32), levels, layout)


def _planes(name: str, constants: Mapping[str, TensorProto]) -> int:
    return sum(bool(re.fullmatch(re.escape(name) + r"\.q\d", key)) for key in constants)


def _base(name: str, plane: int, constants: Mapping[str, TensorProto]) -> int:
    stored = constants.get(f"{name}.base{plane}")
    return int(numpy_helper.to_array(stored)) if stored is not None else 256
