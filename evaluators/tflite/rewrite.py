"""Patterns that TFLite has an operator for."""

from onnx import NodeProto, helper

from .plan import attributes
from .quantized import QuantizedGraph


def with_hard_swish(graph: QuantizedGraph) -> QuantizedGraph:
    """x * HardSigmoid(x) becomes HardSwish(x), which is what exporters take apart; changes `graph`."""
    made = {node.output[0]: node for node in graph.nodes if _hard_sigmoid(node)}
    for i, node in enumerate(graph.nodes):
        inner = next((made[name] for name in node.input if name in made), None)
        if node.op_type == "Mul" and inner is not None and graph.uses[inner.output[0]] == 1 and (
                sorted(node.input) == sorted([inner.input[0], inner.output[0]])):
            graph.nodes[i] = helper.make_node("HardSwish", inner.input[:1], node.output, node.name)
            made.pop(inner.output[0])
            graph.nodes = [n for n in graph.nodes if n is not inner]
            return with_hard_swish(graph)
    return graph


def _hard_sigmoid(node: NodeProto) -> bool:
    options = attributes(node)
    return node.op_type == "HardSigmoid" and abs(options.get("alpha", 0.2) - 1 / 6) < 1e-6
