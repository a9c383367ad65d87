"""The .tflite under construction, as plain data: tensors by name and operators in order.

One rule of layout holds everywhere: what ONNX keeps as (batch, channels, y, x) is (batch, y, x, channels)
here; tensors of any other rank stay as they are.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from ...errors import ExportError
from .quantized import Constant, QuantizedGraph, Scale

TO_NHWC = (0, 2, 3, 1)  # position here -> axis in ONNX
TO_NCHW = (0, 3, 1, 2)
FUSES = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """`dtype` by TFLite's name; constants carry `data`."""

    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...] = ()
    zero_point: int = 0
    axis: int = 0
    data: NDArray[Any] | None = None


@dataclass(slots=True)
class Op:
    """`code` and the names in `options` are those of TFLite's schema."""

    code: str
    inputs: list[str]
    outputs: list[str]
    options: dict[str, Any]


@dataclass(slots=True)
class Plan:
    """Operators append themselves with `emit`; a tensor is declared when it is first named."""

    graph: QuantizedGraph
    tensors: dict[str, Tensor] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    flattened: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # rows in (y, x, channels) order

    def shape(self, name: str) -> tuple[int, ...]:
        """As ONNX has it. Raises ExportError when it is not known."""
        found = self.graph.shapes.get(name, (0,))
        if not all(found):
            raise ExportError(f"no shape is known for tensor {name!r}")
        return found

    def scale(self, name: str) -> Scale:
        if name not in self.graph.scales:
            raise ExportError(f"the file is not int8: tensor {name!r} is float")
        return self.graph.scales[name]

    def activation(self, name: str) -> str:
        """Declares a tensor of the ONNX graph."""
        return self.declare(name, here(self.shape(name)), self.scale(name))

    def declare(self, name: str, shape: tuple[int, ...], scale: Scale) -> str:
        self.tensors.setdefault(name, Tensor(shape, "INT8", (scale.scale,), scale.zero_point))
        return name

    def constant(self, name: str, data: NDArray[Any], constant: Constant | None = None, axis: int = 0) -> str:
        """Stores values; scales and zero point are those of `constant`."""
        scales = tuple(map(float, constant.scales)) if constant else ()
        zero = constant.zero_point if constant else 0
        self.tensors[name] = Tensor(data.shape, data.dtype.name.upper(), scales, zero,
                                    axis if len(scales) > 1 else 0, np.ascontiguousarray(data))
        return name

    def stored(self, node: NodeProto, at: int) -> NDArray[Any] | None:
        """Input `at` of a node, None where it is left out. Raises ExportError unless it is constant."""
        if len(node.input) <= at or not node.input[at]:
            return None
        if node.input[at] not in self.graph.constants:
            raise no_counterpart(node, f"with computed {node.input[at]!r}")
        return self.graph.constants[node.input[at]].real

    def integers(self, name: str, values: object) -> str:
        return self.constant(name, np.asarray(values, np.int32))

    def emit(self, code: str, inputs: list[str], output: str, **options: Any) -> Op:
        self.ops.append(Op(code, inputs, [output], options))
        return self.ops[-1]

    def emit_at(self, scale: Scale, code: str, inputs: list[str], output: str, **options: Any) -> None:
        """For an operator that writes in one scale only; a QUANTIZE follows where the file has another."""
        self.activation(output)
        if self.scale(output) == scale:
            self.emit(code, inputs, output, **options)
        else:
            raw = self.declare(f"{output}/{code.lower()}", self.tensors[output].shape, scale)
            self.emit(code, inputs, raw, **options)
            self.emit("QUANTIZE", [raw], output)

    def in_scale(self, name: str, scale: Scale) -> str:
        """The tensor itself, or a copy of it in that scale."""
        here_ = self.tensors[name]
        if (here_.scales, here_.zero_point) == ((scale.scale,), scale.zero_point):
            return name
        copy = f"{name}/as_{scale.scale!r}_{scale.zero_point}"
        if copy not in self.tensors:
            self.emit("QUANTIZE", [name], self.declare(copy, here_.shape, scale))
        return copy

    def clamped(self, name: str, output: str, function: str) -> bool:
        """Whether the clamp could go into the operator that writes `name`."""
        last = next((op for op in reversed(self.ops) if op.outputs == [name]), None)
        same = self.scale(name) == self.scale(output) and self.graph.uses[name] == 1
        free = last is not None and last.code in FUSES and "fusedActivationFunction" not in last.options
        if last is None or not same or (function and not free) or name in self.graph.outputs:
            return False
        last.outputs = [self.activation(output)]
        if function:
            last.options["fusedActivationFunction"] = function
        return True


def here(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of ONNX in the layout used here."""
    return tuple(shape[i] for i in TO_NHWC) if len(shape) == 4 else tuple(shape)


def axis_here(axis: int, rank: int) -> int:
    """An axis of ONNX, negative ones counted from the end, in the layout used here."""
    return TO_NHWC.index(axis % rank) if rank == 4 else axis % rank


def layout_matters(shape: tuple[int, ...]) -> bool:
    """Whether (channels, y, x) and (y, x, channels) differ in memory; `shape` is ONNX's."""
    return len(shape) == 4 and shape[1] > 1 and prod(shape[2:]) > 1


def attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def called(node: NodeProto) -> str:
    """How a node is named in errors: Softmax 'node_x'."""
    return f"{node.op_type} {node.name or node.output[0]!r}"


def no_counterpart(node: NodeProto, why: str = "") -> ExportError:
    """What to raise for an operator, or a use of one, that the writer does not know."""
    return ExportError(f"{called(node)}{' ' if why else ''}{why} has no int8 TFLite counterpart here")
