"""The one entry: read, plan operator by operator, write."""

import onnx

from ...errors import ExportError, MissingExtraError
from ...spaces.graph.moves import MOVES, MOVES_APART
from .operators import OPERATORS
from .plan import Plan, called, no_counterpart
from .quantized import QuantizedGraph, read
from .rewrite import with_hard_swish
from .writer import missing, write

FIRST_ONLY = MOVES | MOVES_APART | {"Resize", "Clip", "Pad"}  # what else these read are shapes and bounds


def to_tflite(model: onnx.ModelProto | bytes) -> bytes:
    """The same network as an int8 .tflite; activations (batch, channels, y, x) become NHWC.

    The batch is 1 where the file leaves it open. Input and output are int8 with the scales of the QDQ
    file (zero points less 128 where it holds uint8), under its names. Raises ExportError naming the
    operator and the node that is float, or has no counterpart; MissingExtraError: no ai-edge-litert.
    """
    if need := missing():
        raise MissingExtraError(f".tflite files need it: {need}")
    graph = with_hard_swish(read(model))
    _check_known(graph)
    plan = Plan(graph)
    for name in graph.inputs:
        plan.activation(name)
    for node in graph.nodes:
        OPERATORS[node.op_type](node, plan)
    return write(plan)


def _check_known(graph: QuantizedGraph) -> None:
    for node in graph.nodes:
        if node.op_type not in OPERATORS:
            raise no_counterpart(node)
    for node in graph.nodes:
        inputs = node.input[:1] if node.op_type in FIRST_ONLY else node.input
        activations = {*filter(None, inputs), node.output[0]} - graph.constants.keys()
        if not activations <= graph.scales.keys():
            raise ExportError(f"the file is not int8: {called(node)} computes in float")
