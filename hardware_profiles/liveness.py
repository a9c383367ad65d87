"""The peak of a graph's activations, read off the file."""

import math

from .optimised import Graph, basic

# Computed in the buffer of their first input when nothing else still needs it.
IN_PLACE = {
    "Add", "Clip", "DequantizeLinear", "Flatten", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Mul", "QuantizeLinear", "Relu", "Reshape", "Sigmoid", "Squeeze", "Tanh",
    "Unsqueeze",
}
_BYTES = {"float": 4, "float16": 2, "bfloat16": 2, "double": 8, "int64": 8, "int32": 4,
          "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1, "int4": 0.5, "uint4": 0.5}


def activation_peak_bytes(model: bytes) -> int:
    """Largest sum of live activations over the file's own order of execution, at batch 1, in bytes.

    A QuantizeLinear is fused into its producer and a DequantizeLinear into its consumers, as
    runtimes do, so an int8 graph is charged int8 activations. Raises GateError where a shape
    is missing: what cannot be sized is never free.
    """
    graph = basic(model)
    sizes = _tensor_bytes(graph)
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.input}
    last_use.update({name: len(graph.nodes) for name in graph.outputs})
    live = {name: sizes[name] for name in graph.inputs if name in sizes}
    peak = sum(live.values())
    for step, node in enumerate(graph.nodes):
        if graph.constants.issuperset(node.output):
            continue  # weights on their way, not activations
        dying = [n for n in dict.fromkeys(node.input) if n in live and last_use[n] == step]
        if node.op_type in IN_PLACE and dying and dying[0] == node.input[0]:
            live.pop(dying.pop(0))
        for name in node.output:
            if name and last_use.get(name, -1) > step:
                graph.shape(name, node)
                live[name] = sizes[name]
        peak = max(peak, sum(live.values()))
        for name in dying:
            del live[name]
    return int(peak)


def _tensor_bytes(graph: Graph) -> dict[str, float]:
    sizes = {name: math.prod(shape) * _BYTES.get(graph.types[name], 4)
             for name, shape in graph.shapes.items()}
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in sizes:
            sizes[node.output[0]] = sizes[node.input[0]]
    quantized = {n.input[0]: n.output[0] for n in graph.nodes if n.op_type == "QuantizeLinear"}
    sizes.update({src: sizes[out] for src, out in quantized.items() if out in sizes})
    return sizes
