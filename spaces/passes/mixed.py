"""Bits of the weights layer by layer: few where a layer minds little, many where it minds much.

The summed sensitivity is minimised under an exact budget of bytes, as an integer program, after HAWQ-V3
(Yao et al. 2021, arXiv:2011.10680). The packing is that of `weight_only`.
"""

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...errors import GateError
from .._milp import cheapest
from ..graph import nbits
from ..graph.grid import grid, layouts
from ..graph.packing import packed
from ..knob import FloatRange, Knob, Value
from ..sensitivity import BITS, Layer
from . import _onnx
from ._base import Calibration, FilePass, Left, Scope
from .weight_only import SMALLEST, WeightOnlyPass, check_grids, large, quantized, written

UNIFORM = WeightOnlyPass()
ROWS = 8  # so many rows fill whole bytes at any number of bits
Bits = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Mixed:
    """`bits`: weight name -> bits; a layer that is not in it gets 8. The rest as in `WeightOnly`."""

    bits: Bits
    block: int
    symmetric: bool
    method: str = "rtn"
    conv_block: int = 0

    def __str__(self) -> str:
        layers = Counter(bits for _, bits in self.bits)
        counts = "/".join(str(layers[bits]) for bits in BITS if layers[bits])
        method = f" {self.method}" if self.method != "rtn" else ""
        return f"{'/'.join(str(bits) for bits in BITS if layers[bits])}-bit weights ({counts} layers){method}"


class MixedPass(FilePass):
    """`Mixed`, see the module."""

    name = "mixed"
    does = "8-, 4-, 3- or 2-bit weights layer by layer, by sensitivity under an exact budget of bytes"
    paper = "HAWQ-V3, arXiv:2011.10680; GPTQ, arXiv:2210.17323"
    ability = "low_bit_weights"
    step = Mixed
    tolerance = UNIFORM.tolerance

    def refused(self, scope: Scope) -> str | None:
        if reason := UNIFORM.refused(scope):
            return reason
        return None if len(_layers(scope)) > 1 else "no two layers with a known sensitivity"

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        rest = {name: knob for name, knob in UNIFORM.knobs(scope).items() if name != "bits"}
        return {"average_bits": FloatRange(2.0, 8.0, step=0.25), **rest}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        rest = {name: value for name, value in UNIFORM.usual(scope)[-1].items() if name != "bits"}
        return tuple({"average_bits": average, **rest} for average in (4.0, 6.0, 3.0, 2.5))

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Mixed:
        uniform = UNIFORM.decode({**values, "bits": 8}, scope)
        average = float(values["average_bits"])
        packing = (uniform.block, uniform.conv_block, uniform.symmetric)
        sizes = {name: {bits: size_bytes(name, layer, bits, *packing) for bits in BITS}
                 for name, layer in _layers(scope).items()}
        return Mixed(_chosen(scope, sizes, average), uniform.block, uniform.symmetric,
                     uniform.method, uniform.conv_block)

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        return Left(1.0, float(values["average_bits"]) / 32)

    def apply(
        self, step: Mixed, model: onnx.ModelProto, data: Calibration, keep: Set[str] = frozenset()
    ) -> onnx.ModelProto:
        known = dict(step.bits)
        bits = {name: known.get(name, max(BITS)) for name in large(model) if name not in keep}
        return quantized(model, bits, step.block, step.symmetric, step.method, data, step.conv_block)

    def check(self, step: Mixed, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        """Every weight has just the bits that were chosen for it, and is near what it was."""
        found, known = {**packed(after), **nbits.read(after)}, dict(step.bits)
        check_grids(self.name, before, after, found, {2**bits for bits in BITS})
        for name in found:
            if found[name].levels != 2 ** known.get(name, max(BITS)):
                raise GateError(f"mixed: {name} has {found[name].levels} levels, not those of "
                                f"{known.get(name, max(BITS))} bits")
        if left := sorted(known.keys() & set(large(before)) - found.keys()):
            raise GateError(f"mixed left {len(left)} weights in float: {', '.join(left[:3])}")
        _onnx.check_smaller(self.name, before, after)


def _layers(scope: Scope) -> dict[str, Layer]:
    """The layers that are worth packing, of those that were measured."""
    known = scope.sensitivity
    return {name: layer for name, layer in known.layers.items()
            if layer.outputs * layer.inputs >= SMALLEST and name in known.bits} if known else {}


def _chosen(scope: Scope, sizes: Mapping[str, Mapping[int, int]], average: float) -> Bits:
    """The least summed rise within the size that `average` bits everywhere would have.

    Small layers can be larger in 3 bits than in 4, which have simpler packing: more bits never allow less.
    """
    assert scope.sensitivity is not None  # refused otherwise
    totals = [sum(row[bits] for row in sizes.values()) for bits in sorted(BITS)]
    allowed = np.minimum.accumulate(totals[::-1])[::-1]
    budget = float(np.interp(average, sorted(BITS), allowed))
    rises = {name: scope.sensitivity.bits[name] for name in sizes}
    chosen = cheapest(rises, sizes, budget) or dict.fromkeys(sizes, min(BITS))
    return tuple(sorted(chosen.items()))


@cache
def size_bytes(name: str, layer: Layer, bits: int, block: int, conv_block: int, symmetric: bool) -> int:
    """What the weight takes in the file, all that belongs to its packing included.

    Few rows are packed for it: each further row takes as much.
    """
    block = block if layer.operator == "MatMul" else conv_block
    few, more = (_packed_bytes(name, layer.operator, rows, layer.inputs, bits, symmetric, block)
                 for rows in (ROWS, 2 * ROWS))
    return round(few + (layer.outputs - ROWS) * (more - few) / ROWS)


def _packed_bytes(
    name: str, operator: str, rows: int, inputs: int, bits: int, symmetric: bool, block: int
) -> int:
    shape = (inputs, rows) if operator == "MatMul" else (rows, inputs)
    weight = np.ones(shape, np.float32)
    node = helper.make_node(operator, ["x", name], ["y"])
    if operator == "Gemm":
        node.attribute.append(helper.make_attribute("transB", 1))
    graph = helper.make_graph([node], "one", [_value("x")], [_value("y")])
    bare = helper.make_model(graph)
    model = onnx.ModelProto()
    model.CopyFrom(bare)
    model.graph.initializer.append(numpy_helper.from_array(weight, name))
    found = grid(weight, layouts(model)[name], 2**bits, block, symmetric)
    return int(written(model, {name: found}).ByteSize() - bare.ByteSize())


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
