"""INT8 weights and activations with calibrated ranges, as QuantizeLinear / DequantizeLinear pairs.

ONNX Runtime's quantizer; integer-only inference after Jacob et al. 2018, arXiv:1712.05877. Ranges by
its own methods, or by the least squared error (`_ranges.py`).
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from ...errors import GateError
from ..graph.islands import shielded
from ..knob import Choice, Knob, Value
from . import _onnx, _ranges
from ._base import Calibration, FilePass, Left, Scope

WORK, BYTES = 0.4, 0.25  # of a float file: roughly what 8 bits leave
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
    "mse": CalibrationMethod.MinMax,  # and from there to ranges of our own
}
TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
OPERATORS = {"all": None, "weighted": ["Conv", "MatMul", "Gemm"]}
BATCH = 32


@dataclass(frozen=True, slots=True)
class Int8Static:
    """`operators`: "all", or "weighted" for convolutions and matrix products alone."""

    calibration: str
    activations: str
    per_channel: bool
    operators: str

    def __str__(self) -> str:
        width = "per channel" if self.per_channel else "per tensor"
        part = "" if self.operators == "all" else ", weighted operators"
        return f"int8 {self.calibration} {self.activations} {width}{part}"


class Int8StaticPass(FilePass):
    """`Int8Static`, see the module."""

    name = "int8_static"
    does = "8-bit weights and activations, ranges from calibration data"
    paper = "Integer-arithmetic-only inference, arXiv:1712.05877"
    ability = "int8"
    step = Int8Static
    tolerance = 1.0

    def refused(self, scope: Scope) -> str | None:
        if scope.share("Conv", "Gemm", "MatMul") < 0.05:
            return "under 5 % of the weights are in convolutions or matrix products"
        return None

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {
            "calibration": Choice(tuple(METHODS)),
            "activations": Choice(tuple(TYPES)),
            "per_channel": Choice((True, False)),
            "operators": Choice(tuple(OPERATORS)),
        }

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        # Whole-graph INT8 ruins accuracy on graphs without convolutions.
        operators = "all" if scope.share("Conv") > 0.05 else "weighted"
        return ({"calibration": "minmax", "activations": scope.profiles[0].activations,
                 "per_channel": True, "operators": operators},)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Int8Static:
        return Int8Static(str(values["calibration"]), str(values["activations"]),
                          bool(values["per_channel"]), str(values["operators"]))

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        return left(scope)

    def apply(
        self, step: Int8Static, model: onnx.ModelProto, data: Calibration, keep: Set[str] = frozenset()
    ) -> onnx.ModelProto:
        if not data:
            raise GateError("int8_static needs calibration data, the subject has none")
        options: dict[str, Any] = {"ActivationSymmetric": False, "WeightSymmetric": True}
        if step.calibration == "entropy":
            options["CalibTensorRangeSymmetric"] = False
        apart = _onnx.nodes_of(model, keep) + (_misread(model) if step.per_channel else [])
        prepared, batch = _onnx.prepared(model), _onnx.fixed_batch(model) or BATCH
        if step.calibration == "mse":
            ranges = _ranges.least_squares(prepared, list(slices(data, batch)))
            options["TensorQuantOverrides"] = {
                name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
                for name, (low, high) in ranges.items()}
        with contextlib.redirect_stdout(io.StringIO()):  # two of its calibrators print
            return shielded(_onnx.rewritten(
                prepared,
                lambda source, target: quantize_static(
                    source, target, _Reader(data, batch),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=OPERATORS[step.operators],
                    per_channel=step.per_channel,
                    activation_type=TYPES[step.activations],
                    weight_type=QuantType.QInt8,
                    calibrate_method=METHODS[step.calibration],
                    nodes_to_exclude=apart,
                    extra_options=options,
                ),
            ))

    def check(self, step: Int8Static, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        """At least one weighted operator reads only dequantized tensors, and the file shrank."""
        if not quantized(after):
            raise GateError("int8_static quantized no convolution and no matrix product")
        _onnx.check_weights("int8_static", before, after)
        _onnx.check_smaller("int8_static", before, after)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, data: Calibration, batch: int) -> None:
        self._batches = slices(data, batch)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def slices(data: Calibration, batch: int) -> Iterator[dict[str, np.ndarray]]:
    """The data in consecutive batches."""
    for at in range(0, len(next(iter(data.values()))), batch):
        yield {name: array[at : at + batch] for name, array in data.items()}


def _misread(model: onnx.ModelProto) -> list[str]:
    """The quantizer takes the channels of a grouped transposed convolution for those of one group."""
    return [node.name for node in model.graph.node if node.op_type == "ConvTranspose"
            and any(a.name == "group" and a.i > 1 for a in node.attribute)]


def quantized(model: onnx.ModelProto) -> list[str]:
    """Weighted nodes whose data and weight both come out of a DequantizeLinear."""
    dequantized = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return [node.name for node in model.graph.node
            if node.op_type in _onnx.WEIGHTED and set(node.input[:2]) <= dequantized]


def left(scope: Scope, floats: float = 0.0) -> Left:
    """`floats`: share that stays in float."""
    return Left(scope.gain("int8", WORK + (1 - WORK) * floats), BYTES + (1 - BYTES) * floats)
