import numpy as np
import onnx
import pytest
import torch
from cases import case, run
from torch import Tensor, nn

from pared.errors import GateError
from pared.evaluators.export import export
from pared.spaces.graph.trainable import Trainable
from pared.spaces.passes import FILE
from pared.spaces.passes.binary import Binary
from pared.spaces.passes.int8_static import Int8Static
from pared.spaces.passes.weight_only import WeightOnly

STEPS = [("int8_static", Int8Static("minmax", "uint8", True, "weighted")),
         ("int8_static", Int8Static("percentile", "int8", False, "all")),
         ("weight_only", WeightOnly(4, 32, True)), ("weight_only", WeightOnly(8, 32, False)),
         ("weight_only", WeightOnly(2, 32, False, "gptq", 8)), ("binary", Binary("ternary"))]


def outputs(graph: onnx.ModelProto, data: dict[str, np.ndarray]) -> np.ndarray:
    return Trainable(graph)(*(torch.from_numpy(array) for array in data.values())).detach().numpy()


def distance(want: np.ndarray, got: np.ndarray) -> float:
    return float(np.linalg.norm(want - got) / np.linalg.norm(want))


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
@pytest.mark.parametrize(("name", "step"), STEPS, ids=lambda s: str(s))
def test_it_computes_what_the_file_computes_and_writes_back_what_it_read(kind: str, name: str, step: object) -> None:
    graph, data, _ = case(kind)
    if kind == "transformer" and getattr(step, "operators", "") == "all":
        pytest.skip("whole-graph INT8 is no choice without convolutions")
    after = FILE[name].apply(step, graph, data)
    assert distance(run(after, data), outputs(after, data)) < 0.03
    assert distance(run(after, data), run(Trainable(after).written(), data)) < 0.01


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_a_float_file_is_computed_to_the_last_digits(kind: str) -> None:
    graph, data, _ = case(kind)
    assert distance(run(graph, data), outputs(graph, data)) < 1e-5


def test_kept_weights_are_not_trained() -> None:
    graph, _, _ = case("cnn")
    names = {t.name for t in graph.graph.initializer}
    assert "head.weight" in str(names)
    assert len(Trainable(graph).floats) - len(Trainable(graph, {"head.weight", "head.bias"}).floats) == 2


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def test_an_operator_that_cannot_be_trained_is_named() -> None:
    graph = export(Recurrent().eval(), (np.zeros((2, 5, 4), np.float32),))
    with pytest.raises(GateError, match="GRU"):
        Trainable(graph)


class Odd(nn.Module):
    """What the demo's nets do not have: dilations, a transposed convolution, pooling, embeddings, gates."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=2, dilation=2, groups=1)
        self.b = nn.ConvTranspose2d(8, 8, 2, 2, groups=2)
        self.rest = nn.Sequential(nn.Hardswish(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, stride=2, groups=4), nn.SiLU(),
                                  nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(6), nn.Hardsigmoid())
        self.place = nn.Embedding(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rest(nn.functional.leaky_relu(self.b(self.a(x)), 0.2))
        x = torch.cat((x, x.clamp(0.1, 0.4) ** 2), 1)[:, 1:11:2] + self.place.weight.mean(0)[:5]
        return torch.softmax(x, 1) * torch.where(x > 0.3, x, -x)


def test_operators_of_all_kinds_are_computed_alike() -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(4, 3, 12, 12)).astype(np.float32)
    model = Odd()
    model(torch.from_numpy(x))
    graph = export(model.eval(), (x[:2],))
    assert distance(run(graph, {"input0": x}), outputs(graph, {"input0": x})) < 1e-5
