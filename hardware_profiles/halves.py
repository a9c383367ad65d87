"""Half precision rewritten as single, so that a runtime without it shows the graph as it was meant."""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper


def widen_(model: onnx.ModelProto) -> bool:
    """Turns every 16-bit float of the graph into 32 bits; whether most weights were in 16."""
    sizes = {TensorProto.FLOAT16: 0, TensorProto.FLOAT: 0}
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
        _tensor_(tensor)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for attribute in (a for node in model.graph.node for a in node.attribute):
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        _tensor_(attribute.t)
    return sizes[TensorProto.FLOAT16] > sizes[TensorProto.FLOAT]


def _tensor_(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        wide = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
