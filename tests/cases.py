"""A convolutional and a transformer graph, with their data and what a search may know of them."""

from functools import cache

import numpy as np
import onnx
import torch
from helpers import load_tiny
from torch import Tensor, nn

from pared.evaluators.export import export
from pared.evaluators.runtimes import runtime
from pared.hardware_profiles.load import load
from pared.spaces._layerwise import measure
from pared.spaces.passes import Scope, _onnx
from pared.spaces.passes.prune import prunable, stages_of


class Encoder(nn.Module):
    """One transformer block over 12 tokens of width 32."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down, self.head = nn.Linear(32, 128), nn.Linear(128, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 12, 32) -> (batch, 10)
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], 12, 3, 4, 8).permute(2, 0, 3, 1, 4)
        x = x + self.out((torch.softmax(q @ k.transpose(2, 3), -1) @ v).transpose(1, 2).flatten(2))
        return self.head((x + self.down(nn.functional.gelu(self.up(x)))).mean(1))


@cache
def case(kind: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray], Scope]:
    if kind == "cnn":
        subject = load_tiny().subject()
        model, data = subject.model(), subject.split("calibration").inputs[0][:64]
    else:
        torch.manual_seed(0)
        model, data = Encoder().eval(), np.random.default_rng(0).normal(size=(64, 12, 32)).astype(np.float32)
    graph = export(model, (data[:2],))
    stages = tuple(f"stage{i}" for i, _ in enumerate(stages_of(prunable(model, (data[:2],)))))
    return graph, {"input0": data}, Scope(stages, _onnx.weight_shares(graph), (load("host-cpu"),),
                                          sensitivity=measure(model, graph, (data,)))


def run(model: onnx.ModelProto, data: dict[str, np.ndarray]) -> np.ndarray:
    """The file's outputs, through ONNX Runtime."""
    return runtime("onnxruntime").load(model.SerializeToString(), 1).run(tuple(data.values()))
