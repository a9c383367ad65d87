"""What a float convolution does to its result before it writes it: a sum, an activation, a hard swish.

ONNX Runtime fuses these only together with its blocked layouts, so its graph before layouts shows them apart.
"""

from collections import Counter
from dataclasses import replace

import onnx

from .optimised import Graph

_CONVOLUTIONS = ("Conv", "FusedConv")
_ACTIVATIONS = ("Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid")
# Run on blocked tensors too; behind any other operator a sum stays a kernel.
_BLOCKED = {*_CONVOLUTIONS, *_ACTIVATIONS, "QuickGelu", "Add", "Concat", "MaxPool", "AveragePool",
            "GlobalMaxPool", "GlobalAveragePool"}


def folded(graph: Graph) -> Graph:
    """The graph without the nodes that run inside the convolution before them."""
    folder = _Folder(graph)
    for node in graph.nodes:
        folder.take(node)
    return replace(graph, nodes=tuple(folder.kept))


class _Folder:
    def __init__(self, graph: Graph) -> None:
        self.kept: list[onnx.NodeProto] = []
        self._graph = graph
        self._blocked: set[str] = set()
        self._made: dict[str, int] = {}  # tensor -> where the node that makes it stands in `kept`
        self._uses = Counter(name for node in graph.nodes for name in node.input if name)
        self._uses.update(graph.outputs)
        self._products = {frozenset(node.input) for node in graph.nodes if node.op_type == "Mul"}

    def take(self, node: onnx.NodeProto) -> None:
        at = self._host(node)
        if at is None:
            self.kept.append(node)
        else:
            self.kept[at] = _joined(self.kept[at], node)
        self._made[node.output[0]] = len(self.kept) - 1 if at is None else at
        if at is not None or self._blocks(node):
            self._blocked.add(node.output[0])

    def _host(self, node: onnx.NodeProto) -> int | None:
        """Where the convolution stands that this node runs inside of."""
        if node.op_type == "Add":
            return self._summing(node)
        if node.op_type == "Mul":
            return next((self._made[n] for n in node.input if self._gates(node.input, n)), None)
        if node.op_type in _ACTIVATIONS:
            return self._activating(node)
        return None

    def _activating(self, node: onnx.NodeProto) -> int | None:
        """Other activations after a convolution alone are in the FusedConv already."""
        at, source = self._convolution(node.input[0]), node.input[0]
        if at is None:
            return None
        swish = node.op_type == "HardSigmoid" and frozenset((source, node.output[0])) in self._products
        fits = self._uses[source] == 2 if swish else self._uses[source] == 1 and _sums(self.kept[at])
        return at if fits else None

    def _summing(self, node: onnx.NodeProto) -> int | None:
        shapes = {self._graph.shapes.get(name) for name in node.input}
        if len(shapes) > 1 or not self._blocked.issuperset(node.input):
            return None
        hosts = [at for n in node.input if self._uses[n] == 1 and (at := self._convolution(n)) is not None
                 and not _sums(self.kept[at]) and self.kept[at].op_type == "Conv"]
        last = max(self._made[n] for n in node.input)  # when the other operand is there
        return last if last in hosts else None

    def _gates(self, factors: list[str], name: str) -> bool:
        """`name` is the hard sigmoid of the other factor, both inside one convolution."""
        at = self._convolution(name)
        others = [n for n in factors if n != name]
        return at is not None and bool(others) and self._made.get(others[0]) == at

    def _blocks(self, node: onnx.NodeProto) -> bool:
        operands = {name for name in node.input if name} - self._graph.constants
        return node.op_type in _CONVOLUTIONS or (node.op_type in _BLOCKED and self._blocked >= operands)

    def _convolution(self, name: str) -> int | None:
        at = self._made.get(name)
        return at if at is not None and self.kept[at].op_type in _CONVOLUTIONS else None


def _sums(convolution: onnx.NodeProto) -> bool:
    """The fourth input of a FusedConv is what it adds."""
    return len(convolution.input) == 4


def _joined(convolution: onnx.NodeProto, node: onnx.NodeProto) -> onnx.NodeProto:
    result = onnx.NodeProto()
    result.CopyFrom(convolution)
    result.op_type = "FusedConv"
    if node.op_type == "Add":
        other = next(n for n in node.input if n != convolution.output[0])
        result.input.extend([*[""] * (3 - len(result.input)), other])
    result.output[0] = node.output[0]
    return result
