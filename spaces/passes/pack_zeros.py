"""Sparse weights as a bitmap and the values that are not zero; the file unpacks them itself.

The nodes that unpack are plain operators, which any ONNX runtime executes and ONNX Runtime folds into
a constant when it loads the file: smaller on disk, the very same network in memory.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ...errors import GateError
from ..knob import Knob, Value
from . import _onnx
from ._base import Calibration, FilePass, Scope

# The kinds of weights that have a zero of their own and that Gather reads in any runtime.
KINDS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8)
MOST = 2**24  # weights; up to here a sum of ones in 32-bit floats is exact
BITS, VALUES, SHAPE, SIZE = "bits", "nonzero", "shape", "size"
# Shared by all weights of a file.
COMMON: dict[str, NDArray[Any]] = {
    "zeros.powers": np.array([[128, 64, 32, 16, 8, 4, 2, 1]], np.int32),
    "zeros.two": np.array(2, np.int32),
    "zeros.flat": np.array([-1], np.int64),
    "zeros.first": np.array([0], np.int64),
    "zeros.axis": np.array(0, np.int64),
}


@dataclass(frozen=True, slots=True)
class PackZeros:
    """No settings: a weight is packed where that takes fewer bytes."""

    def __str__(self) -> str:
        return "zeros packed"


class PackZerosPass(FilePass):
    """`PackZeros`, see the module."""

    name = "pack_zeros"
    does = "stores sparse weights as a bitmap and their non-zero values, unpacked when the file is loaded"
    paper = "Deep compression (sparse storage), arXiv:1510.00149"
    ability = "sparsity_unstructured"  # in memory the zeros are dense again
    step = PackZeros
    tolerance = 0.0

    def refused(self, scope: Scope) -> str | None:
        return None

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        return ({},)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> PackZeros:
        return PackZeros()

    def apply(
        self, step: PackZeros, model: onnx.ModelProto, data: Calibration, keep: Set[str] = frozenset()
    ) -> onnx.ModelProto:
        """Packs every weight that shrinks by it."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        unpack: list[onnx.NodeProto] = []
        for tensor in [t for t in copy.graph.initializer
                       if t.data_type in KINDS and t.name not in keep and prod(t.dims) <= MOST]:
            constants, nodes = _packed(tensor.name, _onnx.array(tensor))
            if _bytes(constants) + _bytes(nodes) < tensor.ByteSize():
                copy.graph.initializer.remove(tensor)
                copy.graph.initializer.extend(constants)
                unpack += nodes
        if unpack:
            copy.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in COMMON.items())
            _put_first_(copy.graph, unpack)
        return copy

    def check(self, step: PackZeros, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        """Something was packed, the file shrank, and unpacking gives the same bits of every weight."""
        packed = _names(after)
        if not packed:
            raise GateError("pack_zeros found no weight with enough zeros to shrink")
        _onnx.check_smaller("pack_zeros", before, after)
        want = {tensor.name: _onnx.array(tensor) for tensor in before.graph.initializer}
        for tensor in unpacked(after).graph.initializer:
            if not np.array_equal(want[tensor.name], _onnx.array(tensor)):
                raise GateError(f"pack_zeros changed the values of {tensor.name}")


def unpacked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same file with its zeros stored again, for readers that look for weights by name."""
    names = _names(model)
    if not names:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in copy.graph.initializer}
    dense = [numpy_helper.from_array(_dense(name, stored), name) for name in names]
    parts = {f"{name}.{part}" for name in names for part in (BITS, VALUES, SHAPE, SIZE)} | {*COMMON}
    left = [tensor for key, tensor in stored.items() if key not in parts]
    nodes = [node for node in copy.graph.node if not node.name.endswith(".zeros.unpack")]
    del copy.graph.initializer[:], copy.graph.node[:]
    copy.graph.initializer.extend([*left, *dense])
    copy.graph.node.extend(nodes)
    return copy


def _packed(name: str, weight: NDArray[np.generic]) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """Constants, and the nodes that give `name` again: value number CumSum(bits), 0 where the bit is 0."""
    flat = weight.ravel()
    kept = flat != 0
    constants = {
        BITS: np.packbits(kept)[:, None],  # (bytes, 1)
        VALUES: np.concatenate([np.zeros(1, weight.dtype), flat[kept]]),  # (1 + non-zeros,)
        SHAPE: np.array(weight.shape, np.int64),
        SIZE: np.array([weight.size], np.int64),
    }
    part = {key: f"{name}.{key}" for key in constants}
    nodes = [  # OpenVINO divides bytes wrongly, and folds no sum of integers: hence the casts
        _node(name, "Cast", 0, part[BITS], to=TensorProto.INT32),
        _node(name, "Div", 1, f"{name}.0", "zeros.powers"),
        _node(name, "Mod", 2, f"{name}.1", "zeros.two"),
        _node(name, "Reshape", 3, f"{name}.2", "zeros.flat"),
        _node(name, "Slice", 4, f"{name}.3", "zeros.first", part[SIZE]),
        _node(name, "Cast", 5, f"{name}.4", to=TensorProto.FLOAT),
        _node(name, "CumSum", 6, f"{name}.5", "zeros.axis"),
        _node(name, "Mul", 7, f"{name}.5", f"{name}.6"),
        _node(name, "Cast", 8, f"{name}.7", to=TensorProto.INT32),
        _node(name, "Gather", 9, part[VALUES], f"{name}.8"),
        _node(name, "Reshape", 10, f"{name}.9", part[SHAPE], output=name),
    ]
    return [numpy_helper.from_array(value, part[key]) for key, value in constants.items()], nodes


def _node(
    weight: str, kind: str, place: int, *inputs: str, output: str = "", **attributes: Any
) -> onnx.NodeProto:
    name = f"{weight}.{place}.zeros.unpack"
    return helper.make_node(kind, inputs, [output or f"{weight}.{place}"], name=name, **attributes)


def _dense(name: str, stored: Mapping[str, TensorProto]) -> NDArray[np.generic]:
    bits, values, shape = (_onnx.array(stored[f"{name}.{part}"]) for part in (BITS, VALUES, SHAPE))
    kept = np.unpackbits(bits.ravel(), count=prod(shape)).astype(bool)
    flat = np.zeros(prod(shape), values.dtype)
    flat[kept] = values[1:]
    return flat.reshape(shape)


def _names(model: onnx.ModelProto) -> list[str]:
    """The packed weights, by name."""
    return [node.output[0] for node in model.graph.node if node.name.endswith(".10.zeros.unpack")]


def _bytes(parts: Iterable[TensorProto | onnx.NodeProto]) -> int:
    return sum(part.ByteSize() + 4 for part in parts)  # and the tag and length before each


def _put_first_(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *others])
