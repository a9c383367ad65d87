"""INT8 weights, activations quantized on the fly: matrix products only, by ONNX Runtime."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from ...errors import GateError
from ..knob import Choice, Knob, Value
from . import _onnx
from ._base import Calibration, FilePass, Left, Scope
from .int8_static import left

# Dynamic convolutions run 5 to 15 times slower than float ones, so they are left alone.
OPERATORS = ["MatMul", "Gemm"]


@dataclass(frozen=True, slots=True)
class Int8Dynamic:
    """Weights of matrix products in 8 bits; ranges of activations are found at run time."""

    per_channel: bool

    def __str__(self) -> str:
        return f"int8 dynamic {'per channel' if self.per_channel else 'per tensor'}"


class Int8DynamicPass(FilePass):
    """`Int8Dynamic`, see the module."""

    name = "int8_dynamic"
    does = "8-bit matrix products, activation ranges found at run time"
    paper = "ONNX Runtime quantization guide"
    ability = "int8"
    step = Int8Dynamic
    tolerance = 1.0

    def refused(self, scope: Scope) -> str | None:
        share = scope.share(*OPERATORS)
        return None if share >= 0.05 else f"matrix products hold {share:.1%} of the weights"

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {"per_channel": Choice((True, False))}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        return ({"per_channel": True},)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Int8Dynamic:
        return Int8Dynamic(bool(values["per_channel"]))

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        return left(scope)

    def apply(
        self, step: Int8Dynamic, model: onnx.ModelProto, data: Calibration, keep: Set[str] = frozenset()
    ) -> onnx.ModelProto:
        return _onnx.rewritten(
            _onnx.prepared(model),
            lambda source, target: quantize_dynamic(
                source, target, op_types_to_quantize=OPERATORS,
                per_channel=step.per_channel, weight_type=QuantType.QInt8,
                nodes_to_exclude=_onnx.nodes_of(model, keep),
            ),
        )

    def check(self, step: Int8Dynamic, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        if not _onnx.operators(after)["MatMulInteger"]:
            raise GateError("int8_dynamic quantized no matrix product")
        _onnx.check_weights("int8_dynamic", before, after)
        _onnx.check_smaller("int8_dynamic", before, after)
