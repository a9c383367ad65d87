"""An ONNX graph as a torch module, its quantizers trainable, and the way back into the file.

What is trained: weights on a grid (8-bit ones behind DequantizeLinear, and packed ones) with their
steps, the steps of activations, weights in float, biases and norms. Where quantizers lie is never
touched, so that a runtime fuses the trained file as it fused the one that it came from.
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from ...errors import GateError
from . import nbits, packing
from .grid import Grid, layout
from .moves import MOVES, MOVES_APART
from .operators import OPERATORS
from .rounding import Activations, Weights, on_steps
from .weighted import WEIGHTED, array, weights

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
MOVING = MOVES | MOVES_APART | {"Slice"}
QUANTIZED = "_quantized"  # what ONNX Runtime's quantizer appends to the name of a weight
LIMITS = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127)}

# Called before each weighted node: (weight name, node, its data input) -> a weight to use, or None.
Visit = Callable[[str, onnx.NodeProto, Tensor], Tensor | None]


class Trainable(nn.Module):
    """`forward` takes the graph's inputs and gives its first output. Raises GateError: an operator
    that has no place in `operators.py`.

    `keep` are names of constants that are not trained. `origin` is the graph before it was quantized:
    where it has a weight, training starts from there within each weight's rounding interval, so that what
    nearly rounded the other way soon does.
    """

    def __init__(
        self, graph: onnx.ModelProto, keep: Iterable[str] = (), origin: onnx.ModelProto | None = None
    ) -> None:
        super().__init__()
        self.graph, self.keep = graph, frozenset(keep)
        self._origin = weights(origin) if origin else {}
        self.inputs = [value.name for value in graph.graph.input]
        self._constants = {t.name: torch.from_numpy(np.array(numpy_helper.to_array(t)))
                           for t in graph.graph.initializer}
        self.weights: MutableMapping[str, Weights] = nn.ModuleDict()  # type: ignore[assignment]
        self.steps: MutableMapping[str, Activations] = nn.ModuleDict()  # type: ignore[assignment]
        self.floats: MutableMapping[str, nn.Parameter] = nn.ParameterDict()  # type: ignore[assignment]
        self._biases: dict[str, tuple[str, str]] = {}  # 32-bit bias -> scales whose product is its step
        skipped = packing.unpacking(graph)
        self._nodes = [node for node in graph.graph.node if node.output[0] not in skipped]
        self._attributes = [_attributes(node) for node in self._nodes]
        self._check_operators()
        self._find_grids()
        self._find_activations()
        self._find_floats()
        self._last = {name: i for i, node in enumerate(self._nodes) for name in node.input}

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(inputs)

    def run(self, inputs: Iterable[Tensor], visit: Visit | None = None) -> Tensor:
        """`visit` may look at what each weighted node reads, and give it another weight."""
        known: dict[str, Any] = {"": None, **self._constants, **dict(zip(self.inputs, inputs, strict=True))}
        known |= {_dotted(key): value for key, value in self.floats.items()}
        known |= {_dotted(key): module() for key, module in self.weights.items()}
        for i, (node, attributes) in enumerate(zip(self._nodes, self._attributes, strict=True)):
            if visit and node.op_type in WEIGHTED and node.input[1] in known:
                other = visit(node.input[1], node, known[node.input[0]])
                known[node.input[1]] = known[node.input[1]] if other is None else other
            outputs = self._computed(node, attributes, known)
            known |= dict(zip(node.output, outputs, strict=False))
            for name in node.input:  # so that one long batch fits into memory
                if self._last[name] == i and name not in self._constants and name:
                    known.pop(name, None)
        result: Tensor = known[self.graph.graph.output[0].name]
        return result

    def written(self) -> onnx.ModelProto:
        """A copy of the graph with everything that was learned."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.graph)
        tensors = {t.name: t for t in copy.graph.initializer}
        packed, kernels = packing.packed(copy), nbits.read(copy)
        for key, module in self.weights.items():
            name = _dotted(key)
            if name in packed:
                packing.repack_(copy, {name: module.written()})
            elif name in kernels:
                nbits.write_(copy, {name: module.written()})
            else:
                self._write_int8_(name, module.written(), tensors)
        for key, step in self.steps.items():
            _put_(tensors[_dotted(key)], step.scale.detach().numpy())
        for key, value in self.floats.items():
            self._write_float_(_dotted(key), value.detach(), tensors)
        return copy

    def _computed(
        self, node: onnx.NodeProto, attributes: dict[str, Any], known: dict[str, Any]
    ) -> tuple[Any, ...]:
        if node.op_type == QUANTIZE:
            return (self.steps[_slashed(node.input[1])](known[node.input[0]]),)
        if node.op_type == nbits.OPERATOR:
            return (known[node.input[0]] @ known[nbits.weight(node)],)
        if node.op_type == DEQUANTIZE:
            return (self._dequantized(node, known),)
        found = OPERATORS[node.op_type](attributes, *(known[name] for name in node.input))
        return found if isinstance(found, tuple) else (found,)

    def _dequantized(self, node: onnx.NodeProto, known: dict[str, Any]) -> Any:
        """Weights and activations are in float already; a 32-bit bias is put on its step here."""
        name = node.input[0]
        if name in self._biases:
            first, second = self._biases[name]
            return on_steps(known[name], self.steps[first].scale * self.weights[second].scale.reshape(-1))
        return known[name]

    def _check_operators(self) -> None:
        unknown = {n.op_type for n in self._nodes} - OPERATORS.keys() - {QUANTIZE, DEQUANTIZE, nbits.OPERATOR}
        if unknown:
            raise GateError(f"cannot be trained in the file: operator {', '.join(sorted(unknown))}")

    def _find_grids(self) -> None:
        grids = {**packing.packed(self.graph), **nbits.read(self.graph)}
        by_output = {n.output[0]: n for n in self._nodes if n.op_type == DEQUANTIZE}
        for node in self._nodes:
            if node.op_type not in WEIGHTED:
                continue
            weight = by_output.get(node.input[1])
            if weight and weight.input[0] in self._constants:
                grids[weight.input[0]] = self._int8(node, weight)
            bias = by_output.get(node.input[2]) if len(node.input) > 2 else None
            if bias and weight and bias.input[0] in self._constants:
                activation = by_output[node.input[0]].input[1]
                self._find_bias(bias.input[0], activation, weight.input[0], bias.input[1])
        for name, grid in grids.items():
            before = self._origin.get(name.removesuffix(QUANTIZED))
            self.weights[_slashed(name)] = Weights(grid, array(before) if before else None)

    def _find_bias(self, name: str, activation: str, weight: str, scale: str) -> None:
        self._biases[name] = (_slashed(activation), _slashed(weight))
        self.floats[_slashed(name)] = nn.Parameter(self._constants[name] * self._constants[scale])

    def _int8(self, node: onnx.NodeProto, dequantize: onnx.NodeProto) -> Grid:
        """The 8-bit weight that one DequantizeLinear reads, as a grid with a group for each output."""
        integers, scale = (self._constants[name].numpy() for name in dequantize.input[:2])
        zeros = self._constants[dequantize.input[2]].numpy() if len(dequantize.input) > 2 else np.zeros(1)
        shape = layout(node, integers.shape)
        offset = 128 if integers.dtype == np.int8 else 0
        matrix = shape.matrix(integers.astype(np.int16)) + offset
        zero = np.broadcast_to(zeros.astype(np.float32).reshape(-1, 1, 1) + offset, (zeros.size, 1, 1))
        return Grid(matrix.astype(np.uint8).reshape(len(matrix), 1, -1),
                    scale.astype(np.float32).reshape(-1, 1, 1), zero[:1] if (zero == zero[0]).all() else zero,
                    256, shape)

    def _find_activations(self) -> None:
        makers = {name: node for node in self._nodes for name in node.output}
        for node in self._nodes:
            if node.op_type != QUANTIZE:
                continue
            scale = self._constants[node.input[1]]
            zero = self._constants[node.input[2]]
            if scale.numel() != 1:
                raise GateError(f"cannot be trained: {node.name} quantizes each channel on its own")
            low, high = LIMITS[zero.numpy().dtype]
            shared = self._moved_from(node, makers)
            self.steps[_slashed(node.input[1])] = shared or Activations(float(scale), int(zero), low, high)

    def _moved_from(
        self, quantize: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]
    ) -> Activations | None:
        """The step of the values that this node quantizes again, where they were only moved and it is equal.

        Runtimes drop such a pair; with a step of its own it would have to stay.
        """
        source = makers.get(quantize.input[0])
        while source is not None and source.op_type in MOVING:
            source = makers.get(source.input[0])
        if source is None or source.op_type != DEQUANTIZE or _slashed(source.input[1]) not in self.steps:
            return None
        same = all(torch.equal(self._constants[a], self._constants[b])
                   for a, b in zip(source.input[1:], quantize.input[1:], strict=True))
        return self.steps[_slashed(source.input[1])] if same else None

    def _find_floats(self) -> None:
        """Weights in float, and vectors: biases, norms."""
        weighted = {n.input[1] for n in self._nodes if n.op_type in WEIGHTED and len(n.input) > 1}
        for tensor in self.graph.graph.initializer:
            vector = len(tensor.dims) == 1 and tensor.dims[0] > 1
            if (tensor.data_type == onnx.TensorProto.FLOAT and (vector or tensor.name in weighted)
                    and tensor.name not in self.keep and not self._is_of_a_quantizer(tensor.name)):
                self.floats[_slashed(tensor.name)] = nn.Parameter(self._constants[tensor.name])

    def _is_of_a_quantizer(self, name: str) -> bool:
        """A scale or zero, of a pair or of a packed weight."""
        quantizers = (n for n in self._nodes if n.op_type in (QUANTIZE, DEQUANTIZE))
        return any(name in node.input[1:] for node in quantizers) or (
            _slashed(name.rpartition(".")[0]) in self.weights)

    def _write_int8_(self, name: str, grid: Grid, tensors: dict[str, onnx.TensorProto]) -> None:
        dequantize = next(n for n in self._nodes if n.op_type == DEQUANTIZE and n.input[0] == name)
        was = numpy_helper.to_array(tensors[name])
        offset = 128 if was.dtype == np.int8 else 0
        matrix = grid.integers.reshape(len(grid.integers), -1).astype(np.float32) - offset
        _put_(tensors[name], grid.layout.weight(matrix).astype(was.dtype))
        _put_(tensors[dequantize.input[1]], grid.scale)

    def _write_float_(self, name: str, value: Tensor, tensors: dict[str, onnx.TensorProto]) -> None:
        if name not in self._biases:
            _put_(tensors[name], value.numpy())
            return
        first, second = self._biases[name]
        scale = (self.steps[first].scale * self.weights[second].scale.reshape(-1)).detach()
        dequantize = next(n for n in self._nodes if n.op_type == DEQUANTIZE and n.input[0] == name)
        _put_(tensors[name], torch.round(value / scale).to(torch.int32).numpy())
        _put_(tensors[dequantize.input[1]], scale.numpy())


def _put_(tensor: onnx.TensorProto, value: np.ndarray) -> None:
    """Another value of the same shape and type."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    typed = value.reshape(tuple(tensor.dims)).astype(kind, order="C")
    tensor.CopyFrom(numpy_helper.from_array(typed, tensor.name))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: torch.from_numpy(np.array(numpy_helper.to_array(value)))
            if isinstance(value, onnx.TensorProto) else value for name, value in found.items()}


def _slashed(name: str) -> str:
    """Names of torch modules hold no dots."""
    return name.replace(".", "\\")


def _dotted(name: str) -> str:
    return name.replace("\\", ".")
