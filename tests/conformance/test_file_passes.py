"""The contract that every file pass keeps, on a convolutional and on a transformer graph."""

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from cases import case, run
from torch import nn

from pared.errors import GateError
from pared.evaluators.artifact import check_faithful
from pared.evaluators.export import export
from pared.hardware_profiles.load import load
from pared.spaces.passes import FILE, Scope, _onnx

pytestmark = pytest.mark.slow
USEFUL = [(kind, name, i) for kind in ("cnn", "transformer") for name in FILE
          if not FILE[name].refused(case(kind)[2])
          for i in range(len(FILE[name].usual(case(kind)[2])))]


def sparse(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Four of five weights at zero."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    for tensor in _onnx.weights(copy).values():
        weight = onnx.numpy_helper.to_array(tensor).copy()
        weight[np.abs(weight) < np.quantile(np.abs(weight), 0.8)] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    return copy


@cache
def result(kind: str, name: str, i: int):
    """The pass, its step, what it is given and what it makes of it."""
    graph, data, scope = case(kind)
    graph = sparse(graph) if name == "pack_zeros" else graph
    step = FILE[name].decode(FILE[name].usual(scope)[i], scope)
    before = graph.SerializeToString()
    after = FILE[name].apply(step, graph, data)
    assert graph.SerializeToString() == before, "the graph it was given changed"
    return FILE[name], step, graph, data, after


@pytest.fixture(params=USEFUL, ids=lambda p: "-".join(map(str, p)))
def applied(request: pytest.FixtureRequest):
    return result(*request.param)


def test_it_keeps_its_promise_and_computes_about_the_same(applied) -> None:
    file_pass, step, graph, data, after = applied
    file_pass.check(step, graph, after)
    onnx.checker.check_model(after)
    want, got = run(graph, data), run(after, data)
    assert np.linalg.norm(want - got) < 0.35 * np.linalg.norm(want)
    assert after.ByteSize() < graph.ByteSize()


def test_it_is_deterministic(applied) -> None:
    file_pass, step, graph, data, after = applied
    assert file_pass.apply(step, graph, data).SerializeToString() == after.SerializeToString()


def test_a_sabotaged_pass_that_does_nothing_is_caught(applied) -> None:
    file_pass, step, graph, _, _ = applied
    with pytest.raises(GateError):
        file_pass.check(step, graph, graph)


def test_a_sabotaged_pass_that_writes_other_weights_is_caught(applied) -> None:
    """The largest constant of the file, its values in another order."""
    file_pass, step, graph, data, honest = applied
    after = onnx.ModelProto()
    after.CopyFrom(honest)
    largest = max(after.graph.initializer, key=lambda t: np.prod(t.dims))
    mixed = np.random.default_rng(0).permuted(onnx.numpy_helper.to_array(largest).ravel())
    largest.CopyFrom(onnx.numpy_helper.from_array(mixed.reshape(tuple(largest.dims)), largest.name))
    with pytest.raises(GateError):
        file_pass.check(step, graph, after)
        check_faithful(file_pass.name, graph, after, tuple(data.values()), file_pass.tolerance)


def test_a_kept_weight_stays_as_it_was(applied) -> None:
    file_pass, step, graph, data, _ = applied
    name, weight = list(_onnx.weights(graph).items())[1]
    after = file_pass.apply(step, graph, data, frozenset({name}))
    kept = [t for t in after.graph.initializer if t.name == name]
    assert kept and np.array_equal(onnx.numpy_helper.to_array(kept[0]), onnx.numpy_helper.to_array(weight))


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
@pytest.mark.parametrize("name", FILE)
def test_its_usual_settings_lie_within_its_knobs(name: str, kind: str) -> None:
    file_pass, scope = FILE[name], case(kind)[2]
    knobs = file_pass.knobs(scope)
    for setting in file_pass.usual(scope):
        assert set(setting) == set(knobs)
        assert all(value in knobs[name] for name, value in setting.items())


def test_whole_graph_int8_is_not_the_usual_choice_without_convolutions() -> None:
    scope = case("transformer")[2]
    assert FILE["int8_static"].usual(scope)[0]["operators"] == "weighted"


@pytest.mark.parametrize("values", [
    {"calibration": c, "activations": a, "per_channel": p, "operators": o}
    for c in ("minmax", "entropy", "percentile") for a in ("uint8", "int8")
    for p in (True, False) for o in ("all", "weighted")])
def test_every_int8_setting_makes_a_file_that_runs_on_a_cnn(values: dict) -> None:
    graph, data, scope = case("cnn")
    int8 = FILE["int8_static"]
    step = int8.decode(values, scope)
    after = int8.apply(step, graph, data)
    int8.check(step, graph, after)
    want, got = run(graph, data), run(after, data)
    assert np.linalg.norm(want - got) < 0.35 * np.linalg.norm(want)


def test_static_int8_asks_for_calibration_data() -> None:
    graph, _, scope = case("cnn")
    step = FILE["int8_static"].decode(FILE["int8_static"].usual(scope)[0], scope)
    with pytest.raises(GateError, match="calibration data"):
        FILE["int8_static"].apply(step, graph, {})


def test_four_bit_weights_take_an_eighth_of_the_space() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 63, 3), nn.Flatten()).eval()
    data = np.random.default_rng(0).normal(size=(4, 32, 6, 6)).astype(np.float32)
    graph = export(model, (data[:2],))
    weight_only = FILE["weight_only"]
    scope = Scope((), _onnx.weight_shares(graph), (load("host-cpu"),))
    small = weight_only.apply(weight_only.decode({"bits": 4}, scope), graph, {})
    assert small.ByteSize() < 0.15 * graph.ByteSize()
    want, got = run(graph, {"input0": data}), run(small, {"input0": data})
    assert np.linalg.norm(want - got) < 0.2 * np.linalg.norm(want)
