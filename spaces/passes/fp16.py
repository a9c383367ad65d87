"""Half precision weights and activations, by ONNX Runtime's converter."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from ...errors import GateError
from ..knob import Knob, Value
from . import _onnx
from ._base import Calibration, FilePass, Left, Scope


@dataclass(frozen=True, slots=True)
class Fp16:
    """No settings; inputs and outputs of the file stay 32-bit."""

    def __str__(self) -> str:
        return "fp16"


class Fp16Pass(FilePass):
    """`Fp16`, see the module."""

    name = "fp16"
    does = "stores and, where the machine can, computes in 16-bit floats"
    paper = "Mixed precision training, arXiv:1710.03740"
    ability = "fp16"
    step = Fp16
    tolerance = 0.05

    def refused(self, scope: Scope) -> str | None:
        return None

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        return ({},)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Fp16:
        return Fp16()

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        return Left(scope.gain("fp16", 0.6), 0.5)

    def apply(
        self, step: Fp16, model: onnx.ModelProto, data: Calibration, keep: Set[str] = frozenset()
    ) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        half = ONNXModel(convert_float_to_float16(
            copy, keep_io_types=True, node_block_list=_onnx.nodes_of(copy, keep)))
        half.topological_sort()  # the converter appends its casts at the end
        result: onnx.ModelProto = half.model
        return result

    def check(self, step: Fp16, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        left = [name for name, tensor in _onnx.weights(after).items()
                if tensor.data_type == onnx.TensorProto.FLOAT]
        if left or not _onnx.weights(after):
            raise GateError(f"fp16 left {len(left)} weights in 32 bits: {', '.join(left[:3])}")
        _onnx.check_weights("fp16", before, after)
        _onnx.check_smaller("fp16", before, after)
