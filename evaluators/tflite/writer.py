"""Plan -> flatbuffer, with the object API of the schema that LiteRT ships; the only file that knows it.

Schema: https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs
"""

from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from .plan import Op, Plan, Tensor

# operator -> (its options in the schema, the version that introduced int8)
CODES = {
    "ADD": ("AddOptions", 2),
    "AVERAGE_POOL_2D": ("Pool2DOptions", 2),
    "CONCATENATION": ("ConcatenationOptions", 2),
    "CONV_2D": ("Conv2DOptions", 3),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", 3),
    "FULLY_CONNECTED": ("FullyConnectedOptions", 4),
    "HARD_SWISH": ("HardSwishOptions", 1),
    "LEAKY_RELU": ("LeakyReluOptions", 2),
    "LOGISTIC": ("", 2),
    "MAX_POOL_2D": ("Pool2DOptions", 2),
    "MEAN": ("ReducerOptions", 2),
    "MUL": ("MulOptions", 2),
    "PAD": ("PadOptions", 2),
    "PADV2": ("PadV2Options", 2),
    "QUANTIZE": ("QuantizeOptions", 2),
    "RELU": ("", 2),
    "RELU6": ("", 2),
    "RELU_N1_TO_1": ("", 1),
    "RESHAPE": ("ReshapeOptions", 1),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", 3),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", 3),
    "SOFTMAX": ("SoftmaxOptions", 2),
    "SPLIT": ("SplitOptions", 2),
    "SUB": ("SubOptions", 2),
    "TANH": ("", 2),
    "TRANSPOSE": ("TransposeOptions", 2),
}
ENUMS = {"padding": "Padding", "fusedActivationFunction": "ActivationFunctionType"}
IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3


def missing() -> str | None:
    """What to install, or None."""
    return "pip install 'pared[npu]'" if find_spec("ai_edge_litert") is None else None


def write(plan: Plan) -> bytes:
    """The file. The same plan always gives the same bytes."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version, model.description = SCHEMA_VERSION, "int8"
    codes = sorted({op.code for op in plan.ops})
    model.operatorCodes = [_code(schema, code) for code in codes]
    model.buffers = [schema.BufferT()]  # buffer 0 is empty by convention
    model.subgraphs = [_subgraph(schema, plan, codes, model.buffers)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _subgraph(schema: ModuleType, plan: Plan, codes: list[str], buffers: list[Any]) -> Any:
    used = {name for op in plan.ops for name in (*op.inputs, *op.outputs)} | set(plan.graph.inputs)
    names = [name for name in plan.tensors if name in used]
    index = {name: i for i, name in enumerate(names)}
    graph = schema.SubGraphT()
    graph.name = "main"
    graph.tensors = [_tensor(schema, plan.graph.outputs.get(name, name), plan.tensors[name], buffers)
                     for name in names]
    graph.inputs = [index[name] for name in plan.graph.inputs]
    graph.outputs = [index[name] for name in plan.graph.outputs]
    graph.operators = [_operator(schema, op, codes, index) for op in plan.ops]
    return graph


def _code(schema: ModuleType, name: str) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)  # what readers of schemas before 3a look at
    code.version = CODES[name][1]
    return code


def _operator(schema: ModuleType, op: Op, codes: list[str], index: dict[str, int]) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = codes.index(op.code)
    operator.inputs = [index[name] for name in op.inputs]
    operator.outputs = [index[name] for name in op.outputs]
    if kind := CODES[op.code][0]:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        operator.builtinOptions = options = getattr(schema, f"{kind}T")()
        for name, value in op.options.items():
            assert hasattr(options, name), f"{kind} has no field {name}"
            setattr(options, name, getattr(getattr(schema, ENUMS[name]), value) if name in ENUMS else value)
    return operator


def _tensor(schema: ModuleType, name: str, tensor: Tensor, buffers: list[Any]) -> Any:
    entry = schema.TensorT()
    entry.name, entry.shape = name, list(tensor.shape)
    entry.type = getattr(schema.TensorType, tensor.dtype)
    if tensor.scales:
        entry.quantization = scale = schema.QuantizationParametersT()
        scale.scale = np.array(tensor.scales, np.float32)
        scale.zeroPoint = np.full(len(tensor.scales), tensor.zero_point, np.int64)
        scale.quantizedDimension = tensor.axis
    if tensor.data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(tensor.data.tobytes(), np.uint8)
        buffers.append(buffer)
        entry.buffer = len(buffers) - 1
    return entry
