"""INT8 by a second engine: NNCF's post-training quantization of ONNX files, with corrections around it.

Bias correction: Nagel et al. 2019, arXiv:1906.04721; SmoothQuant: Xiao et al. 2022, arXiv:2211.10438.
NNCF (https://github.com/openvinotoolkit/nncf) decides where the pairs QuantizeLinear, DequantizeLinear
stand; the signedness of activations is then set here, which changes no result.
"""

import os
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import onnx
from onnx import numpy_helper

from ...errors import GateError, MissingExtraError
from ..graph.islands import shielded
from ..knob import Choice, Knob, Value
from ..quiet import quiet
from . import _onnx
from ._base import Calibration, FilePass, Left, Scope
from .int8_static import BATCH, TYPES, left, quantized, slices

INSTALL = "pip install 'pared[ptq]'"
RANGES = {"minmax": "MINMAX", "histogram": "HISTOGRAM"}
SMOOTHING = "/nncf_smooth_quant"  # ends the name of the Mul that SmoothQuant puts before a node


@dataclass(frozen=True, slots=True)
class Int8Nncf:
    """`preset`: "performance" has symmetric ranges, "mixed" asymmetric ones for activations.

    `ranges`: "minmax" over all calibration data, or those of least error over a "histogram" of them.
    `bias_correction` shifts biases by the mean error of the rounded weights; `smooth` divides the
    inputs of matrix products by scales that the weights take over.
    """

    preset: str
    activations: str
    ranges: str
    bias_correction: bool
    smooth: bool = False

    def __str__(self) -> str:
        more = (", bias correction" if self.bias_correction else "") + (", smooth" if self.smooth else "")
        return f"int8 nncf {self.preset} {self.ranges} {self.activations}{more}"


class Int8NncfPass(FilePass):
    """`Int8Nncf`, see the module."""

    name = "int8_nncf"
    does = "8-bit weights and activations by NNCF, with bias correction and SmoothQuant"
    paper = "Data-free quantization, arXiv:1906.04721; SmoothQuant, arXiv:2211.10438"
    ability = "int8"
    step = Int8Nncf
    tolerance = 1.0

    def refused(self, scope: Scope) -> str | None:
        if scope.share("Conv", "Gemm", "MatMul") < 0.05:
            return "under 5 % of the weights are in convolutions or matrix products"
        return None if find_spec("nncf") else f"NNCF is not installed: {INSTALL}"

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        smooth = {"smooth": Choice((True, False))} if _of_products(scope) else {}
        return {"preset": Choice(("performance", "mixed")), "activations": Choice(tuple(TYPES)),
                "ranges": Choice(tuple(RANGES)), "bias_correction": Choice((True, False)), **smooth}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        smooth: dict[str, Value] = {"smooth": False} if _of_products(scope) else {}
        return ({"preset": "mixed", "activations": scope.profiles[0].activations,
                 "ranges": "minmax", "bias_correction": True, **smooth},)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Int8Nncf:
        return Int8Nncf(str(values["preset"]), str(values["activations"]), str(values["ranges"]),
                        bool(values["bias_correction"]), bool(values.get("smooth", False)))

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        return left(scope)

    def apply(
        self, step: Int8Nncf, model: onnx.ModelProto, data: Calibration, keep: Set[str] = frozenset()
    ) -> onnx.ModelProto:
        """Raises GateError without calibration data, MissingExtraError without NNCF."""
        if not data:
            raise GateError("int8_nncf needs calibration data, the subject has none")
        if not find_spec("nncf"):
            raise MissingExtraError(f"int8_nncf needs NNCF: {INSTALL}")
        batch = _onnx.fixed_batch(model) or BATCH
        prepared = _onnx.prepared(model)
        result = _quantized(step, prepared, list(slices(data, batch)), _onnx.nodes_of(model, keep))
        _restore_(result.graph, {t.name: t for t in prepared.graph.initializer if t.name in keep})
        _name_(result.graph)
        _part_(result.graph)
        _set_signedness_(result.graph, step.activations)
        return shielded(result)

    def check(self, step: Int8Nncf, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        """At least one weighted operator reads only dequantized tensors, and the file shrank."""
        if not quantized(after):
            raise GateError("int8_nncf quantized no convolution and no matrix product")
        _onnx.check_weights("int8_nncf", _smoothed(before, after), after)
        _check_signedness(step, after.graph)
        _onnx.check_smaller("int8_nncf", before, after)


def _of_products(scope: Scope) -> bool:
    return scope.share("MatMul") > scope.share("Conv")


def _quantized(
    step: Int8Nncf, model: onnx.ModelProto, batches: list[dict[str, np.ndarray]], ignored: list[str]
) -> onnx.ModelProto:
    """`ignored`: names of nodes that stay in float."""
    os.environ.setdefault("NNCF_CI", "1")  # else it sends usage statistics
    with quiet():
        import nncf
        from nncf.quantization import advanced_parameters as advanced
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

        shares = _onnx.weight_shares(model)
        products = shares.get("MatMul", 0) > shares.get("Conv", 0)
        try:
            result = nncf.quantize(
                model, nncf.Dataset(batches), preset=nncf.QuantizationPreset(step.preset),
                target_device=nncf.TargetDevice.CPU, subset_size=len(batches),
                model_type=nncf.ModelType.TRANSFORMER if products else None,
                ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=nncf.OverflowFix.DISABLE,
                    batchwise_statistics=len(next(iter(batches[0].values()))) > 1,
                    disable_bias_correction=not step.bias_correction,
                    # By channel, as NNCF wants it before depthwise convolutions, they run in float.
                    activations_quantization_params=advanced.QuantizationParameters(per_channel=False),
                    activations_range_estimator_params=getattr(Ranges, RANGES[step.ranges]),
                    smooth_quant_alphas=advanced.AdvancedSmoothQuantParameters(
                        matmul=0.95 if step.smooth else -1)))
        except Exception as error:  # NNCF raises many kinds
            reason = f"{type(error).__name__}: {error}"[:400]
            raise GateError(f"NNCF cannot quantize the graph: {reason}") from error
    assert isinstance(result, onnx.ModelProto)
    return result


def _restore_(graph: onnx.GraphProto, kept: Mapping[str, onnx.TensorProto]) -> None:
    """Takes SmoothQuant back from the kept weights: NNCF smooths nodes that it was told to leave alone."""
    made = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in _onnx.WEIGHTED and node.input[1] in kept:
            source = made.get(node.input[0])
            if source is not None and source.name.endswith(SMOOTHING):
                node.input[0] = source.input[0]
    for tensor in graph.initializer:
        if tensor.name in kept:
            tensor.CopyFrom(kept[tensor.name])


def _name_(graph: onnx.GraphProto) -> None:
    """Gives what belongs to a weight the names that ONNX Runtime's quantizer would give it."""
    stored = {tensor.name for tensor in graph.initializer}
    names: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            weight = node.input[0].removeprefix("q_output_").rpartition("_")[0]
            parts = (f"{weight}_quantized", f"{weight}_scale", f"{weight}_zero_point",
                     f"{weight}_DequantizeLinear_Output")
            if not names.keys() & {*node.input, *node.output} and not set(parts) & {*names.values()}:
                names |= dict(zip([*node.input, *node.output], parts, strict=True))
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _part_(graph: onnx.GraphProto) -> None:
    """Biases of products as (1, 1, n): as (n,) they are fused into a Gemm, which runs in float."""
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    products = {node.output[0] for node in graph.node if node.op_type == "MatMul"}
    uses = Counter(name for node in graph.node for name in node.input)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        biases = [name for name in node.input if name in stored and uses[name] == 1]
        product = products.intersection(node.input) if node.op_type == "Add" else ()
        if biases and any(ranks.get(name) == 3 for name in product):
            tensor = stored[biases[0]]
            del tensor.dims[:-1]
            tensor.dims[:0] = (1, 1)


def _set_signedness_(graph: onnx.GraphProto, activations: str) -> None:
    """The same numbers stored from 0 to 255, or from -128 to 127: all zero points shift by 128."""
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    pairs = {name for node in graph.node if node.op_type == "QuantizeLinear" for name in node.output}
    for tensor in graph.initializer:
        zero = _onnx.array(tensor)
        if tensor.name in zeros and zero.dtype != activations:
            shifted = zero.astype(np.int16) + (128 if activations == "uint8" else -128)
            tensor.CopyFrom(numpy_helper.from_array(shifted.astype(activations), tensor.name))
    for value in [value for value in graph.value_info if value.name in pairs]:
        graph.value_info.remove(value)


def _check_signedness(step: Int8Nncf, graph: onnx.GraphProto) -> None:
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    kinds = {str(_onnx.array(tensor).dtype) for tensor in graph.initializer if tensor.name in zeros}
    if kinds != {step.activations}:
        raise GateError(f"int8_nncf was to store activations as {step.activations}, found {sorted(kinds)}")


def _smoothed(before: onnx.ModelProto, after: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the graph before with each weight divided by the scale that its inputs have after it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(before)
    stored = {tensor.name: tensor for tensor in copy.graph.initializer}
    scales = _smoothing(after)
    for node in copy.graph.node:
        name = node.input[1] if node.op_type in _onnx.WEIGHTED else ""
        if name in stored and name in scales:
            weight, scale = _onnx.array(stored[name]), scales[name]
            last = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
            smooth = weight / (scale if last else scale[:, None])
            stored[name].CopyFrom(numpy_helper.from_array(smooth.astype(weight.dtype), name))
    return copy


def _smoothing(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Weight -> what SmoothQuant multiplies its inputs by, (inputs,)."""
    made = {name: node for node in model.graph.node for name in node.output}
    stored = {tensor.name: _onnx.array(tensor) for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        source = made.get(node.input[0]) if node.op_type in _onnx.WEIGHTED else None
        while source is not None and source.op_type in ("QuantizeLinear", "DequantizeLinear"):
            source = made.get(source.input[0])
        if source is not None and source.name.endswith(SMOOTHING):
            found[node.input[1].removesuffix("_DequantizeLinear_Output")] = stored[source.input[1]].ravel()
    return found
