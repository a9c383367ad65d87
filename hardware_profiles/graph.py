"""What a graph needs of a machine, read off the file: so far the peak of its activations."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort

from ..errors import GateError

# Computed in the buffer of their first input when nothing else still needs it.
IN_PLACE = {
    "Add", "Clip", "DequantizeLinear", "Flatten", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Mul", "QuantizeLinear", "Relu", "Reshape", "Sigmoid", "Squeeze", "Tanh",
    "Unsqueeze",
}
_BYTES = {"FLOAT": 4, "FLOAT16": 2, "BFLOAT16": 2, "DOUBLE": 8, "INT64": 8, "INT32": 4,
          "INT16": 2, "UINT16": 2, "INT8": 1, "UINT8": 1, "BOOL": 1, "INT4": 0.5, "UINT4": 0.5}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch: an operator with what is fused into it, at batch 1. Counts are of elements.

    `op` is conv (dense, k > 1), pw (1x1), dw (depthwise), gconv (grouped), fc, mm (both operands
    are activations), elt, pool, data (moves elements), quant (crosses between int8 and float).
    `dtype` is empty where it is that of the file.
    """

    op: str
    macs: int
    weights: int
    in_elems: int
    out_elems: int
    c_in: int
    c_out: int
    kernel: int
    groups: int
    dtype: str = ""


def activation_peak_bytes(model: bytes) -> int:
    """Largest sum of live activations over the file's own order of execution, at batch 1, in bytes.

    A QuantizeLinear is fused into its producer and a DequantizeLinear into its consumers, as
    runtimes do, so an int8 graph is charged int8 activations. Raises GateError where a shape
    is missing: what cannot be sized is never free.
    """
    graph = _with_shapes(model).graph
    sizes = _tensor_bytes(graph)
    constants = {tensor.name for tensor in graph.initializer}
    last_use = {name: i for i, node in enumerate(graph.node) for name in node.input}
    last_use.update({out.name: len(graph.node) for out in graph.output})
    live = {i.name: sizes[i.name] for i in graph.input if i.name in sizes}
    peak = sum(live.values())
    for step, node in enumerate(graph.node):
        if all(name in constants or not name for name in node.input):
            constants.update(node.output)  # weights on their way, not activations
            continue
        dying = [n for n in dict.fromkeys(node.input) if n in live and last_use[n] == step]
        if node.op_type in IN_PLACE and dying and dying[0] == node.input[0]:
            live.pop(dying.pop(0))
        for name in node.output:
            if name and last_use.get(name, -1) > step:
                live[name] = _size(sizes, name, node)
        peak = max(peak, sum(live.values()))
        for name in dying:
            del live[name]
    return int(peak)


def _with_shapes(model: bytes) -> onnx.ModelProto:
    """The graph after constant folding, every dynamic dimension set to 1, shapes inferred."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "basic.onnx")
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        basic = onnx.load(options.optimized_model_filepath)
    del basic.graph.value_info[:]
    for value in (*basic.graph.input, *basic.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    return onnx.shape_inference.infer_shapes(basic, data_prop=True)


def _tensor_bytes(graph: onnx.GraphProto) -> dict[str, float]:
    sizes = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim]
        if tensor.HasField("shape") and all(d > 0 for d in dims):
            count = 1
            for d in dims:
                count *= d
            sizes[value.name] = count * _BYTES.get(onnx.TensorProto.DataType.Name(tensor.elem_type), 4)
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in sizes:
            sizes[node.output[0]] = sizes[node.input[0]]
    quantized = {n.input[0]: n.output[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    sizes.update({src: sizes[out] for src, out in quantized.items() if out in sizes})
    return sizes


def _size(sizes: dict[str, float], name: str, node: onnx.NodeProto) -> float:
    if name not in sizes:
        raise GateError(f"no shape known for {name!r}, output of {node.op_type} {node.name!r}")
    return sizes[name]
