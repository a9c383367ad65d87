"""Float layers among 8-bit ones that really stay in float.

A Conv or Gemm with a float weight behind a DequantizeLinear does not run in float: ONNX Runtime rounds the
weight itself, for the whole tensor at once (its optimiser WeightBiasQuantization). A sum of one term between
the two is not taken away and keeps the layer as it is, at the cost of one copy of its input.
"""

import onnx
from onnx import helper

from .weighted import weights

ROUNDED = ("Conv", "ConvTranspose", "Gemm")


def shielded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which no layer with a float weight reads a DequantizeLinear directly."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    floats = {name for name, tensor in weights(model).items() if tensor.data_type == onnx.TensorProto.FLOAT}
    crossings = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    nodes = list(result.graph.node)
    del result.graph.node[:]
    for node in nodes:
        if node.op_type in ROUNDED and node.input[1] in floats and node.input[0] in crossings:
            value = f"{node.input[1]}.float_input"
            result.graph.node.append(helper.make_node("Sum", [node.input[0]], [value], name=value))
            node.input[0] = value
        result.graph.node.append(node)
    return result
