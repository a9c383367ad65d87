"""A model file as ONNX Runtime rewrites it before running it, every tensor with its shape."""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data

from ..errors import GateError
from .halves import widen_

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in the order of execution, at batch 1. `types` are ONNX Runtime's: "float", "uint8"."""

    nodes: tuple[onnx.NodeProto, ...]
    shapes: dict[str, Shape]
    types: dict[str, str]
    constants: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def shape(self, name: str, node: onnx.NodeProto) -> Shape:
        """Raises GateError where it is unknown: what cannot be sized is never free."""
        if name not in self.shapes:
            raise GateError(f"no shape known for {name!r} of {node.op_type} {node.name!r}")
        return self.shapes[name]

    def elements(self, name: str, node: onnx.NodeProto) -> int:
        return math.prod(self.shape(name, node))


def basic(model: bytes) -> Graph:
    """Constants folded, no kernels fused. Without it arithmetic on shapes hides shapes."""
    content = _at_batch_1(model).SerializeToString()
    return _with_shapes(_rewritten(content, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC))


def fused(model: bytes) -> Graph:
    """Kernels fused as the CPU provider does, before its layouts, which differ by processor.

    A file in half precision is read as if it computed so, not with the casts that this provider
    puts around operators it has in single precision alone.
    """
    proto = _at_batch_1(model)
    halves = widen_(proto)
    content = proto.SerializeToString()
    graph = _with_shapes(_rewritten(content, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED))
    if not halves:
        return graph
    return replace(graph, types={n: "float16" if t == "float" else t for n, t in graph.types.items()})


def parsed(model: bytes) -> onnx.ModelProto:
    """Raises GateError: no ONNX file, an empty node, a damaged tensor, or weights that are in other files."""
    try:
        proto = onnx.load_from_string(model)
    except Exception as error:  # protobuf's own
        raise GateError(f"this is no ONNX file: {str(error)[:400]}") from error
    if empty := [node for node in proto.graph.node if not node.output]:  # ONNX Runtime lets them pass
        raise GateError(f"node {empty[0].name!r} of operator {empty[0].op_type!r} has no output")
    for tensor in _tensors(proto.graph):
        _check(tensor)
    return proto


def _check(tensor: onnx.TensorProto) -> None:
    if uses_external_data(tensor):
        raise GateError(f"tensor {tensor.name!r} is in another file; save the model as one file")
    try:
        numpy_helper.to_array(tensor)
    except (TypeError, ValueError, LookupError) as error:
        raise GateError(f"tensor {tensor.name!r} is damaged: {str(error)[:400]}") from error


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for attribute in (a for node in graph.node for a in node.attribute):
        yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def _at_batch_1(model: bytes) -> onnx.ModelProto:
    proto = parsed(model)
    del proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    return proto


def _rewritten(model: bytes, level: ort.GraphOptimizationLevel) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        _session(model, level, str(file))
        return onnx.load(file)


def _session(
    model: bytes, level: ort.GraphOptimizationLevel, saved: str = ""
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4  # that the saved file suits this machine alone is no news here
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = saved
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # the runtime's own exception types are not exported
        raise GateError(f"ONNX Runtime cannot read the graph: {_blamed(model, str(error))}") from error


def _blamed(model: bytes, reason: str) -> str:
    """The runtime's words, which name an operator it lacks but not the node."""
    nodes = onnx.load_from_string(model).graph.node
    found = [f"{n.op_type} of node {n.name!r}: " for n in nodes if f"{n.domain}:{n.op_type}(" in reason]
    return "".join(found[:1]) + reason[:400]


def _with_shapes(model: onnx.ModelProto) -> Graph:
    """Asks ONNX Runtime, which knows its own operators, by making every tensor an output."""
    graph = model.graph
    outputs = tuple(value.name for value in graph.output)
    inner = {name for node in graph.node for name in node.output if name} - set(outputs)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(inner))
    session = _session(model.SerializeToString(), ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    values = [*session.get_inputs(), *session.get_outputs()]
    shapes = {v.name: tuple(v.shape) for v in values if all(isinstance(d, int) for d in v.shape)}
    types = {v.name: v.type.removeprefix("tensor(").removesuffix(")") for v in values}
    for tensor in graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        types[tensor.name] = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if all(name in constants or not name for name in node.input):
            constants.update(node.output)
    inputs = tuple(v.name for v in session.get_inputs())
    return Graph(tuple(graph.node), shapes, types, frozenset(constants), inputs, outputs)
