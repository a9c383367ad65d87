"""8- or 4-bit weights, activations left alone.

Matrix products by ONNX Runtime's block-wise MatMulNBits, which has a kernel. Convolutions and Gemm
as packed integers with an in-graph unpack made of plain operators, which any ONNX runtime folds
into float weights when it loads the file: smaller on disk, as fast as before.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from ...errors import GateError
from ..knob import Choice, IntRange, Knob, Value
from . import _onnx
from ._base import Calibration, FilePass, Scope

SMALLEST = 256  # weights; below this the scales outweigh what is saved


@dataclass(frozen=True, slots=True)
class WeightOnly:
    """`bits` 8 or 4; `block` is the group size along the inputs of a matrix product."""

    bits: int
    block: int
    symmetric: bool

    def __str__(self) -> str:
        return f"{self.bits}-bit weights"


class WeightOnlyPass(FilePass):
    """`WeightOnly`, see the module."""

    name = "weight_only"
    does = "8- or 4-bit weights, activations in float"
    paper = "GPTQ (round to nearest baseline), arXiv:2210.17323"
    ability = "int4_weights"
    step = WeightOnly
    tolerance = 1.0

    def refused(self, scope: Scope) -> str | None:
        share = scope.share(*_onnx.WEIGHTED)
        return None if share >= 0.05 else f"its operators hold {share:.1%} of the weights"

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        knobs: dict[str, Knob] = {"bits": IntRange(4, 8, step=4)}
        if scope.share("MatMul") >= 0.05:
            knobs |= {"block": IntRange(32, 128, step=32), "symmetric": Choice((True, False))}
        return knobs

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        names = self.knobs(scope)
        return tuple({name: value for name, value in
                      {"bits": bits, "block": 32, "symmetric": True}.items() if name in names}
                     for bits in (8, 4))

    def decode(self, values: Mapping[str, Value], scope: Scope) -> WeightOnly:
        return WeightOnly(int(values["bits"]), int(values.get("block", 32)),
                          bool(values.get("symmetric", True)))

    def apply(
        self, step: WeightOnly, model: onnx.ModelProto, data: Calibration, keep: Set[str] = frozenset()
    ) -> onnx.ModelProto:
        packed = onnx.ModelProto()
        packed.CopyFrom(model)
        _pack_(packed, step.bits)
        if not any(node.op_type == "MatMul" for node in packed.graph.node):
            return packed
        quantizer = MatMulNBitsQuantizer(packed, step.bits, step.block, step.symmetric)
        quantizer.process()
        result: onnx.ModelProto = quantizer.model.model
        return result

    def check(self, step: WeightOnly, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        """No large float weight is left in an operator this pass is for; the file shrank."""
        left = [name for name, tensor in _onnx.weights(after).items()
                if np.prod(tensor.dims) >= SMALLEST]
        if left:
            raise GateError(f"weight_only left {len(left)} weights in float: {', '.join(left[:3])}")
        _onnx.check_smaller("weight_only", before, after)


def _pack_(model: onnx.ModelProto, bits: int) -> None:
    """Replaces each Conv and Gemm weight by its packed integers and the nodes that unpack them."""
    wanted = {node.input[1] for node in model.graph.node
              if node.op_type in ("Conv", "ConvTranspose", "Gemm")}
    unpack: list[onnx.NodeProto] = []
    for name, tensor in _onnx.weights(model).items():
        if name in wanted and np.prod(tensor.dims) >= SMALLEST:
            constants, nodes = _unpacked(name, _onnx.array(tensor), bits)
            model.graph.initializer.remove(tensor)
            model.graph.initializer.extend(constants)
            unpack += nodes
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(unpack + kept)


def _unpacked(
    name: str, weight: np.ndarray, bits: int
) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """Symmetric per-channel integers q with weight = q * scale: constants, and nodes giving `name`."""
    limit = 2 ** (bits - 1) - 1
    axes = tuple(range(1, weight.ndim))
    scale = np.abs(weight).max(axes, keepdims=True) / limit
    scale[scale == 0] = 1
    integers = np.clip(np.rint(weight / scale), -limit, limit).astype(np.int8)
    constants = [numpy_helper.from_array(scale.astype(weight.dtype), f"{name}.scale")]
    if bits == 8:
        constants.append(numpy_helper.from_array(integers, f"{name}.q"))
        nodes = [helper.make_node("Cast", [f"{name}.q"], [f"{name}.int"], to=TensorProto.FLOAT)]
    else:
        more, nodes = _nibbles(name, integers)
        constants += more
    return constants, [*nodes, helper.make_node("Mul", [f"{name}.int", f"{name}.scale"], [name])]


def _nibbles(
    name: str, integers: np.ndarray
) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """Two 4-bit values a byte: the first half of the flat weight low, the second half high."""
    flat = (integers.ravel() + 8).astype(np.uint8)
    half = (len(flat) + 1) // 2
    low, high = flat[:half], np.pad(flat[half:], (0, 2 * half - len(flat)))
    constants = [
        numpy_helper.from_array(low | high << 4, f"{name}.q"),
        numpy_helper.from_array(np.array(16, np.uint8), f"{name}.sixteen"),
        numpy_helper.from_array(np.array([0], np.int64), f"{name}.from"),
        numpy_helper.from_array(np.array([len(flat)], np.int64), f"{name}.to"),
        numpy_helper.from_array(np.array(integers.shape, np.int64), f"{name}.shape"),
        numpy_helper.from_array(np.array(8, np.float32), f"{name}.eight"),
    ]
    nodes = [
        helper.make_node("Mod", [f"{name}.q", f"{name}.sixteen"], [f"{name}.low"]),
        helper.make_node("Div", [f"{name}.q", f"{name}.sixteen"], [f"{name}.high"]),
        helper.make_node("Concat", [f"{name}.low", f"{name}.high"], [f"{name}.both"], axis=0),
        helper.make_node("Slice", [f"{name}.both", f"{name}.from", f"{name}.to"], [f"{name}.flat"]),
        helper.make_node("Reshape", [f"{name}.flat", f"{name}.shape"], [f"{name}.dense"]),
        helper.make_node("Cast", [f"{name}.dense"], [f"{name}.float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", [f"{name}.float", f"{name}.eight"], [f"{name}.int"]),
    ]
    return constants, nodes
