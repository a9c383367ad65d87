"""What a QDQ file says: operators on int8 tensors, each with its scale, QuantizeLinear pairs read away.

A pair QuantizeLinear, DequantizeLinear only states the scale of the tensor it stands on. Unsigned files are
read as signed: zero point less 128, which is what TFLite's int8 kernels take
(https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec).
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import NodeProto, TensorProto, numpy_helper, shape_inference

from ...errors import ExportError
from ...spaces.graph.moves import MOVES, MOVES_APART
from ...spaces.passes.pack_zeros import unpacked

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
CLAMPS = {"Relu", "Clip"}  # what comes before may be written straight in their scale
MEANS = {"ReduceMean", "GlobalAveragePool", "AveragePool"}  # no wider than what they read
_UNSIGNED = 128


@dataclass(frozen=True, slots=True)
class Scale:
    """real = scale * (int8 - zero_point)."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class Constant:
    """Values as stored; `scales` is empty for floats and shapes, (1,) or (channels,) along `axis` else."""

    values: NDArray[np.generic]
    scales: NDArray[np.float32]
    zero_point: int = 0
    axis: int = 0

    @property
    def real(self) -> NDArray[np.float64]:
        values = np.asarray(self.values, np.float64)
        if not self.scales.size:
            return values
        shape = [-1 if i == self.axis else 1 for i in range(values.ndim)] if self.scales.size > 1 else []
        return (values - self.zero_point) * self.scales.astype(np.float64).reshape(shape)


@dataclass(slots=True)
class QuantizedGraph:
    """Operators in order, their tensors by name. Shapes are ONNX's, (batch, channels, ...), of batch 1."""

    inputs: tuple[str, ...] = ()
    outputs: dict[str, str] = field(default_factory=dict)  # tensor -> name of the graph's output
    nodes: list[NodeProto] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    scales: dict[str, Scale] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)


def read(model: onnx.ModelProto | bytes) -> QuantizedGraph:
    """Raises ExportError for a file without quantized activations, or with types other than 8 bit."""
    whole = onnx.load_from_string(model) if isinstance(model, bytes) else model
    proto = _for_one_example(unpacked(whole))
    if not any(node.op_type == QUANTIZE for node in proto.graph.node):
        raise ExportError("the file is not int8: it holds no QuantizeLinear, activations are float")
    graph = QuantizedGraph(shapes=_shapes(proto.graph), constants=_constants(proto.graph))
    aliases: dict[str, str] = {}
    for node in proto.graph.node:
        _take(node, graph, aliases)
    weights = set(graph.constants)
    graph.inputs = tuple(i.name for i in proto.graph.input if i.name not in weights)
    graph.outputs = {aliases.get(o.name, o.name): o.name for o in proto.graph.output}
    _drop_unused(graph)
    _share_scales(graph)
    return graph


def _take(node: NodeProto, graph: QuantizedGraph, aliases: dict[str, str]) -> None:
    source = aliases.get(node.input[0], node.input[0]) if node.input else ""
    if node.op_type == DEQUANTIZE and source in graph.constants:
        graph.constants[node.output[0]] = _dequantized(node, graph)
    elif node.op_type == DEQUANTIZE or (node.op_type == QUANTIZE and _states_scale(node, source, graph)):
        aliases[node.output[0]] = source
    else:
        kept = NodeProto()
        kept.CopyFrom(node)
        kept.input[:] = [aliases.get(name, name) for name in node.input]
        if node.op_type == QUANTIZE:  # from one scale to another: an operator like any other
            graph.scales[node.output[0]] = _scale(node, graph)
        graph.nodes.append(kept)


def _states_scale(node: NodeProto, source: str, graph: QuantizedGraph) -> bool:
    """Whether the node does no more than say, for the first time or again, what the scale of `source` is."""
    scale = _scale(node, graph)
    return graph.scales.setdefault(source, scale) == scale


def _scale(node: NodeProto, graph: QuantizedGraph) -> Scale:
    scale, zero, shift = _parameters(node, graph)
    if scale.size != 1:
        raise ExportError(f"{node.op_type} {node.name!r} has a scale per channel; TFLite takes one a tensor")
    return Scale(float(scale[0]), zero - shift)


def _parameters(node: NodeProto, graph: QuantizedGraph, stored: DTypeLike = np.uint8
                ) -> tuple[NDArray[np.float32], int, int]:
    """Scales (k,), zero point, what to take off to make it signed; `stored`: of values without zero point."""
    if any(name and name not in graph.constants for name in node.input[1:]):
        raise ExportError(f"{node.op_type} {node.name!r} computes its scale")
    zeros = graph.constants[node.input[2]].values if len(node.input) > 2 else np.zeros(1, stored)
    if zeros.dtype not in (np.uint8, np.int8, np.int32):
        raise ExportError(f"the file is not int8: {node.op_type} {node.name!r} holds {zeros.dtype}")
    zero = np.unique(np.asarray(zeros, np.int64))
    if zero.size != 1:
        raise ExportError(f"{node.op_type} {node.name!r} has several zero points; TFLite has none")
    scales = np.asarray(graph.constants[node.input[1]].values, np.float32).reshape(-1)
    return scales, int(zero[0]), _UNSIGNED if zeros.dtype == np.uint8 else 0


def _dequantized(node: NodeProto, graph: QuantizedGraph) -> Constant:
    values = graph.constants[node.input[0]].values
    scales, zero, shift = _parameters(node, graph, values.dtype)
    blocks = any(a.name == "block_size" and a.i for a in node.attribute)
    if values.dtype not in (np.uint8, np.int8, np.int32) or blocks:
        raise ExportError(f"the file is not int8: {node.op_type} {node.name!r} holds {values.dtype} blocks")
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if shift:
        values = (values.astype(np.int16) - shift).astype(np.int8)
    return Constant(values, scales, zero - shift, axis % max(1, values.ndim))


def _share_scales(graph: QuantizedGraph) -> None:
    """Tensors without a scale of their own take that of the tensor they are moved, or clamped, to or from."""
    for node in reversed(graph.nodes):
        alone = graph.uses[node.input[0]] == 1 if node.input else False
        if node.op_type in MOVES | CLAMPS and alone and node.output[0] in graph.scales:
            graph.scales.setdefault(node.input[0], graph.scales[node.output[0]])
    for node in graph.nodes:
        last = node.op_type in MEANS and _is_read_out(node.output[0], graph)
        if (node.op_type in MOVES | MOVES_APART | CLAMPS or last) and node.input[0] in graph.scales:
            for name in node.output:
                graph.scales.setdefault(name, graph.scales[node.input[0]])


def _is_read_out(name: str, graph: QuantizedGraph) -> bool:
    """Whether nothing comes after but moving: quantizers leave the last mean of a network in float."""
    readers = [node for node in graph.nodes if name in node.input]
    moved = bool(readers) and all(node.op_type in MOVES for node in readers)
    return name in graph.outputs or (moved and all(_is_read_out(node.output[0], graph) for node in readers))


def _drop_unused(graph: QuantizedGraph) -> None:
    """What computes shapes and other side products is not part of the network."""
    needed, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if needed.intersection(node.output):
            # The second input of the movers is a shape, known already.
            needed.update(node.input[:1] if node.op_type in MOVES | MOVES_APART else node.input)
            kept.append(node)
    graph.nodes = kept[::-1]
    graph.uses = Counter(name for node in graph.nodes for name in node.input)
    graph.uses.update(list(graph.outputs))


def _constants(graph: onnx.GraphProto) -> dict[str, Constant]:
    stored = {tensor.name: tensor for tensor in graph.initializer}
    constants = [node for node in graph.node if node.op_type == "Constant"]
    stored.update({node.output[0]: a.t for node in constants for a in node.attribute if a.name == "value"})
    return {name: _stored(tensor) for name, tensor in stored.items()}


def _stored(tensor: TensorProto) -> Constant:
    return Constant(numpy_helper.to_array(tensor), np.zeros(0, np.float32))


def _for_one_example(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the batch set to 1 where it is open, and shapes inferred from that."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in (*copy.graph.input, *copy.graph.output):
        for dim in value.type.tensor_type.shape.dim[:1]:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    return shape_inference.infer_shapes(copy, data_prop=True)


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    values = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values
            if v.type.tensor_type.HasField("shape")}
