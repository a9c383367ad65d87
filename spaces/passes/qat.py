"""Quantization-aware training inside the file: weights, biases and steps learn to live with rounding.

The file as a number format wrote it is read as a torch module (`graph/trainable.py`), trained with
learned step sizes (LSQ, Esser et al. 2020, arXiv:1902.08153) and straight-through gradients, taught by
the untouched model, and written back into the same graph. So quantizers lie where they lay, residual
additions included, batch norms are folded, and a runtime fuses the file exactly as it did before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch

from ...errors import GateError
from ..graph.trainable import Trainable
from ..keep import kept
from ..knob import FloatRange, IntRange, Knob, Value
from ..training import Settings, train_
from ._base import Array, Materials, Scope, TuningPass

STEPS_RATE = 3.0  # of the learning rate: steps are trained as logarithms, so this is a relative change
SAME = 1e-3  # of the outputs' norm: the file must hold what was trained


@dataclass(frozen=True, slots=True)
class Qat:
    """As of `recover`: `soft_weight` 0 trains on the labels alone, 1 on the teacher alone."""

    epochs: int
    learning_rate: float
    temperature: float = 4.0
    soft_weight: float = 0.8

    def __str__(self) -> str:
        return f"QAT {self.epochs} ep {self.learning_rate:.2g}"


class QatPass(TuningPass):
    """`Qat`, see the module."""

    name = "qat"
    does = "trains the quantized file: weights, biases and step sizes, taught by the untouched model"
    paper = "LSQ, arXiv:1902.08153"
    ability = None
    step = Qat

    def refused(self, scope: Scope) -> str | None:
        return None

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {"epochs": IntRange(1, 8, log=True), "learning_rate": FloatRange(3e-5, 3e-3, log=True)}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        return ({"epochs": 2, "learning_rate": 5e-4},)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Qat:
        return Qat(int(values["epochs"]), float(values["learning_rate"]))

    def tune(
        self, step: Qat, graph: onnx.ModelProto, origin: onnx.ModelProto, materials: Materials
    ) -> onnx.ModelProto:
        """Raises GateError: an operator that cannot be trained; TrainingError when it keeps diverging."""
        frozen = {t.name for t in graph.graph.initializer if kept(t.name, materials.keep)}
        model = Trainable(graph, frozen, origin)
        settings = Settings(step.epochs, step.learning_rate, step.temperature, step.soft_weight)
        train_(model, materials, settings, groups=_groups(model, step.learning_rate))
        tuned = model.written()
        _check_written(model, tuned, materials.inputs)
        return tuned

    def check(self, step: Qat, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        """Only numbers changed, and numbers did change."""
        if [_shape(n) for n in before.graph.node] != [_shape(n) for n in after.graph.node]:
            raise GateError("qat changed the nodes of the graph")
        was, now = ({t.name: t for t in graph.graph.initializer} for graph in (before, after))
        if {(t.name, t.data_type, *t.dims) for t in was.values()} != {
                (t.name, t.data_type, *t.dims) for t in now.values()}:
            raise GateError("qat changed the shape or type of a constant")
        whole = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
        if all(was[name] == tensor for name, tensor in now.items() if tensor.data_type in whole):
            raise GateError("qat left every quantized weight as it was")

    def outputs(self, graph: onnx.ModelProto, inputs: tuple[Array, ...]) -> Array:
        return _outputs(Trainable(graph), inputs)


def _groups(model: Trainable, rate: float) -> list[dict[str, Any]]:
    steps = [p for name, p in model.named_parameters() if name.endswith("log_scale")]
    rest = [p for name, p in model.named_parameters() if not name.endswith("log_scale")]
    return [{"params": rest, "lr": rate, "weight_decay": 0.0},
            {"params": steps, "lr": STEPS_RATE * rate, "weight_decay": 0.0}]


def _outputs(model: torch.nn.Module, inputs: tuple[Array, ...]) -> Array:
    with torch.inference_mode():
        found: torch.Tensor = model(*(torch.from_numpy(np.array(array)) for array in inputs))
    return found.numpy()


def _check_written(model: Trainable, tuned: onnx.ModelProto, inputs: tuple[Array, ...]) -> None:
    trained, stored = _outputs(model, inputs), _outputs(Trainable(tuned), inputs)
    error = float(np.linalg.norm(trained - stored) / max(1e-12, float(np.linalg.norm(trained))))
    if not error <= SAME:
        raise GateError(f"qat: the file holds something else than was trained, off by {error:.2g}")


def _shape(node: onnx.NodeProto) -> tuple[object, ...]:
    return node.op_type, tuple(node.input), tuple(node.output)
