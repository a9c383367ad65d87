"""Models that passes were not written for: each file pass leaves them right, or says why not."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from pared.errors import CandidateError, GateError
from pared.evaluators.export import export
from pared.hardware_profiles.load import load
from pared.spaces.passes import FILE, Scope, _onnx

IMAGES = np.random.default_rng(0).normal(size=(32, 8, 8, 8)).astype(np.float32)
WORDS = np.random.default_rng(0).integers(0, 64, size=(32, 10))
SERIES = np.random.default_rng(0).normal(size=(32, 12, 16)).astype(np.float32)


class ConstantHead(nn.Module):
    """One of two outputs is the same for every input."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(8, 32, 3), nn.Linear(32, 10)
        self.prior = nn.Parameter(torch.randn(10))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(torch.relu(self.body(x)).mean((2, 3))), self.prior.softmax(0).expand(x.shape[0], -1)


class AllConstant(ConstantHead):
    """The only output is the same for every input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0] * 0 + self.prior


class ConstantBranch(nn.Module):
    """A subgraph of constants joins what depends on the input, and one layer sees only zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.dead = nn.Linear(16, 32), nn.Conv2d(8, 32, 3)
        self.body, self.head = nn.Conv2d(8, 32, 3), nn.Linear(32, 10)
        self.codes = nn.Parameter(torch.randn(1, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.body(x)).mean((2, 3)) + self.dead(x.clamp(0, 0)).mean((2, 3))
        return self.head(y + self.table(self.codes))


class Words(nn.Module):
    """An embedding whose table is the output layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(64, 32), nn.Linear(32, 32)

    def forward(self, words: Tensor) -> Tensor:
        return torch.relu(self.mix(self.table(words).mean(1))) @ self.table.weight.T


class Recurrent(nn.Module):
    """An LSTM in both directions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(16, 24, batch_first=True, bidirectional=True), nn.Linear(48, 10)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.cells(series)[0][:, -1])


class Shared(nn.Module):
    """One layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(torch.relu(self.conv(x)))).flatten(1))


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 32, 3, groups=4), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32), nn.ReLU(),
                         nn.Conv2d(32, 16, 1), nn.Flatten(), nn.Linear(256, 10))


def transposed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 24, 3), nn.ReLU(), nn.ConvTranspose2d(24, 16, 3, 2),
                         nn.ConvTranspose2d(16, 8, 3, groups=4), nn.Flatten(), nn.Linear(8 * 225, 10))


def norm_after_relu() -> nn.Module:
    norm = nn.BatchNorm2d(32)
    norm.running_mean.uniform_(0, 1), norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(nn.Conv2d(8, 32, 3), nn.ReLU(), norm, nn.Conv2d(32, 16, 3), nn.Flatten(), nn.Linear(256, 10))


ODD: dict[str, tuple[Callable[[], nn.Module], np.ndarray]] = {
    "constant head": (ConstantHead, IMAGES), "all constant": (AllConstant, IMAGES),
    "constant branch": (ConstantBranch, IMAGES), "grouped": (grouped, IMAGES),
    "transposed": (transposed, IMAGES), "norm after relu": (norm_after_relu, IMAGES),
    "shared layer": (Shared, IMAGES), "embedding": (Words, WORDS), "lstm": (Recurrent, SERIES)}
CLOSE = 0.35  # of the outputs' norm: what a few bits may cost untrained weights


@cache
def exported(kind: str) -> onnx.ModelProto:
    make, data = ODD[kind]
    torch.manual_seed(0)
    return export(make().eval(), (data[:2],))


def outputs(graph: onnx.ModelProto, data: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    fixed = _onnx.fixed_batch(graph)
    return session.run(None, {"input0": data[:fixed]})


def with_zeros(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    for tensor in copy.graph.initializer:
        value = _onnx.array(tensor).copy()
        if value.size >= 256 and value.dtype == np.float32:
            value[np.abs(value) < np.quantile(np.abs(value), 0.8)] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return copy


def settings(name: str, graph: onnx.ModelProto) -> list[Any]:
    scope = Scope((), _onnx.weight_shares(graph), (load("host-cpu"),))
    if why := FILE[name].refused(scope):
        assert len(why) > 10, "a refusal has a reason"
        return []
    steps = [FILE[name].decode(setting, scope) for setting in FILE[name].usual(scope)]
    return [step for step in steps if step is not None]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILE)
@pytest.mark.parametrize("kind", ODD)
def test_it_is_handled_or_refused_with_a_reason_and_never_corrupted(kind: str, name: str) -> None:
    graph, data = exported(kind), ODD[kind][1]
    graph = with_zeros(graph) if name == "pack_zeros" else graph
    before, want = graph.SerializeToString(), outputs(graph, data)
    for step in settings(name, graph):
        try:
            after = FILE[name].apply(step, graph, {"input0": data})
            FILE[name].check(step, graph, after)
        except CandidateError as error:
            assert len(str(error)) > 10, "a refusal has a reason"
            continue
        finally:
            assert graph.SerializeToString() == before, "the graph it was given changed"
        onnx.checker.check_model(after)
        for expected, got in zip(want, outputs(after, data), strict=True):
            assert expected.shape == got.shape and np.isfinite(got).all()
            assert np.linalg.norm(expected - got) <= CLOSE * np.linalg.norm(expected), str(step)


@pytest.mark.parametrize("name", FILE)
def test_no_calibration_data_is_a_reason_or_no_matter(name: str) -> None:
    graph = with_zeros(exported("grouped"))
    for step in settings(name, graph):
        try:
            FILE[name].check(step, graph, FILE[name].apply(step, graph, {}))
        except GateError as error:
            assert "calibration data" in str(error)
