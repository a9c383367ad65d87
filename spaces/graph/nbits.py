"""Grids as MatMulNBits nodes: ONNX Runtime's block-wise kernel for products with 4- or 8-bit weights."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .grid import Bytes, Grid, Layout

OPERATOR, DOMAIN = "MatMulNBits", "com.microsoft"
BITS = {16: 4, 256: 8}
SMALLEST_BLOCK = 16  # the kernel takes blocks of 16, 32, 64 .. 256 inputs


def put_(model: onnx.ModelProto, grids: Mapping[str, Grid]) -> set[str]:
    """Replaces MatMul nodes whose weight has a grid that the kernel takes; the names of those weights."""
    done = set()
    readers = _readers(model)
    for name, grid in grids.items():
        if len(readers.get(name, [])) == 1 and readers[name][0].op_type == "MatMul" and _fits(grid):
            _replace_(model, readers[name][0], name, grid)
            done.add(name)
    if done and DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return done


def read(model: onnx.ModelProto) -> dict[str, Grid]:
    """The grids of all MatMulNBits nodes, by the name of the weight that they replaced."""
    constants = {t.name: t for t in model.graph.initializer}
    return {weight(node): _grid(node, constants) for node in model.graph.node if node.op_type == OPERATOR}


def weight(node: onnx.NodeProto) -> str:
    """The name of the weight that this node stands for."""
    return str(node.input[1]).removesuffix(".q")


def write_(model: onnx.ModelProto, grids: Mapping[str, Grid]) -> None:
    """Puts other integers and scales into the nodes of these weights."""
    constants = {t.name: t for t in model.graph.initializer}
    for name, grid in grids.items():
        for tensor in _constants(name, grid):
            constants[tensor.name].CopyFrom(tensor)


def _fits(grid: Grid) -> bool:
    size = grid.integers.shape[2]
    return grid.levels in BITS and size >= SMALLEST_BLOCK and size & (size - 1) == 0 and size <= 256


def _readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _replace_(model: onnx.ModelProto, node: onnx.NodeProto, name: str, grid: Grid) -> None:
    rows, groups, size = grid.integers.shape
    tensor = next(t for t in model.graph.initializer if t.name == name)
    model.graph.initializer.remove(tensor)
    constants = _constants(name, grid)
    model.graph.initializer.extend(constants)
    node.CopyFrom(helper.make_node(
        OPERATOR, [node.input[0], *(t.name for t in constants)], list(node.output), name=node.name,
        domain=DOMAIN, K=groups * size, N=rows, bits=BITS[grid.levels], block_size=size))


def _constants(name: str, grid: Grid) -> list[onnx.TensorProto]:
    """Integers (rows, groups, bytes), scales (rows * groups,), zeros, low half of a byte first."""
    rows, groups, _ = grid.integers.shape
    zeros = np.broadcast_to(grid.zero.astype(np.uint8), (rows, groups, 1))[..., 0]
    packed: Bytes = grid.integers
    if grid.levels == 16:
        packed = _pairs(packed)
        zeros = _pairs(np.pad(zeros, ((0, 0), (0, groups % 2))))
    return [numpy_helper.from_array(packed, f"{name}.q"),
            numpy_helper.from_array(grid.scale.reshape(-1).astype(np.float32), f"{name}.scale"),
            numpy_helper.from_array(np.ascontiguousarray(zeros).reshape(-1), f"{name}.zeros")]


def _pairs(numbers: Bytes) -> Bytes:
    """Two 4-bit numbers a byte, along the last axis."""
    packed: Bytes = (numbers[..., ::2] | numbers[..., 1::2] << 4).astype(np.uint8)
    return packed


def _grid(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Grid:
    a = {at.name: at.i for at in node.attribute}
    rows, columns, size = a["N"], a["K"], a["block_size"]
    groups = columns // size
    packed, scale, zeros = (numpy_helper.to_array(constants[name]) for name in node.input[1:4])
    zeros = zeros.reshape(rows, -1)
    if a["bits"] == 4:
        packed, zeros = (np.stack([x & 15, x >> 4], -1).reshape(*x.shape[:-1], -1) for x in (packed, zeros))
    zero = zeros[:, :groups].astype(np.float32).reshape(rows, groups, 1)
    same = zero[:1, :1] if (zero == zero[0, 0]).all() else zero
    return Grid(packed.reshape(rows, groups, size), scale.reshape(rows, groups, 1), same, 2 ** a["bits"],
                Layout((columns, rows), True))
