"""The operators of a graph that hold the weights, and those weights."""

import numpy as np
import onnx
from onnx import numpy_helper

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The constant weight of every Conv, ConvTranspose, Gemm and MatMul, by initializer name."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    names = [name for node in model.graph.node if node.op_type in WEIGHTED
             for name in node.input[1:2] if name in constants]
    return {name: constants[name] for name in names}


def array(tensor: onnx.TensorProto) -> np.ndarray:
    return numpy_helper.to_array(tensor)
