"""Post-training quantization: ranges of least squared error, and NNCF as a second engine."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from cases import case, run
from torch import nn

from pared.errors import GateError, MissingExtraError
from pared.evaluators.export import export
from pared.hardware_profiles.load import load
from pared.hardware_profiles.optimised import fused
from pared.spaces.passes import Scope, _onnx, _ranges, int8_nncf
from pared.spaces.passes.int8_nncf import Int8Nncf, Int8NncfPass
from pared.spaces.passes.int8_static import Int8Static, Int8StaticPass

STATIC, NNCF = Int8StaticPass(), Int8NncfPass()
MIXED = Int8Nncf("mixed", "uint8", "minmax", True)


def runs_as(graph: onnx.ModelProto) -> Counter[str]:
    """The operators after ONNX Runtime fused them."""
    return Counter(node.op_type for node in fused(graph.SerializeToString()).nodes)


def lost(before: onnx.ModelProto, after: onnx.ModelProto, data: dict[str, np.ndarray]) -> float:
    want, got = run(before, data), run(after, data)
    return float(np.linalg.norm(want - got) / np.linalg.norm(want))


@pytest.mark.parametrize("full", [(0.0, 40.0), (-40.0, 0.0), (-20.0, 40.0)])
def test_the_range_of_least_squares_clips_a_few_outliers(full: tuple[float, float]) -> None:
    low, high = full
    edges = np.linspace(low, high, _ranges.BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    counts = 1e6 * np.exp(-np.abs(centres))
    counts[-1 if high else 0] = 1
    found = _ranges.shrunk(counts, full)
    assert low <= found[0] <= 0 <= found[1] <= high and found[1] - found[0] < high - low
    assert _ranges.error(counts, centres, found) < 0.9 * _ranges.error(counts, centres, full)


def test_the_range_of_least_squares_stays_full_without_outliers() -> None:
    assert _ranges.shrunk(np.ones(_ranges.BINS), (-1.0, 2.0)) == (-1.0, 2.0)


def test_errors_are_those_of_rounding_to_eight_bits() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    low, high = values.min(), values.max()
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    truth = (((np.clip(np.rint(values / scale + zero), 0, 255) - zero) * scale - values) ** 2).sum()
    assert _ranges.error(np.ones(len(values)), values, (low, high)) == pytest.approx(truth, rel=1e-2)


@pytest.mark.parametrize("operators", ["all", "weighted"])
@pytest.mark.parametrize("kind", ["cnn", "transformer"])
@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_least_squares_fuse_as_min_max_and_lose_no_more(kind: str, operators: str, activations: str) -> None:
    graph, data, _ = case(kind)
    plain, mse = (STATIC.apply(Int8Static(method, activations, True, operators), graph, data)
                  for method in ("minmax", "mse"))
    STATIC.check(Int8Static("mse", activations, True, operators), graph, mse)
    assert runs_as(mse) == runs_as(plain)
    assert lost(graph, mse, data) < 1.25 * lost(graph, plain, data)
    assert mse.SerializeToString() != plain.SerializeToString()


def test_least_squares_clip_a_heavy_tail_in_the_file() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten()).eval()
    images = np.random.default_rng(0).laplace(size=(256, 3, 16, 16)).astype(np.float32)
    graph, steps = export(model, (images[:2],)), {}
    for method in ("minmax", "mse"):
        file = STATIC.apply(Int8Static(method, "uint8", True, "all"), graph, {"input0": images})
        first = next(node for node in file.graph.node if node.input[0] == "input0")
        steps[method] = next(float(_onnx.array(t)) for t in file.graph.initializer if t.name == first.input[1])
    assert steps["mse"] < 0.9 * steps["minmax"] == pytest.approx(0.9 * np.ptp(images) / 255, rel=1e-3)


def test_least_squares_work_on_one_example_at_a_time() -> None:
    graph, data, _ = case("cnn")
    single = onnx.ModelProto()
    single.CopyFrom(graph)
    single.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for engine, step in ((STATIC, Int8Static("mse", "uint8", True, "all")), (NNCF, MIXED)):
        engine.check(step, single, engine.apply(step, single, {"input0": data["input0"][:8]}))


NNCF_STEPS = [Int8Nncf(preset, activations, ranges, bias)
              for preset, ranges in (("performance", "minmax"), ("mixed", "minmax"), ("mixed", "histogram"))
              for activations in ("uint8", "int8") for bias in (True, False)]


@pytest.mark.parametrize("step", NNCF_STEPS, ids=str)
def test_nncf_fuses_on_convolutions_as_the_first_engine_does(step: Int8Nncf) -> None:
    graph, data, _ = case("cnn")
    after = NNCF.apply(step, graph, data)
    NNCF.check(step, graph, after)
    onnx.checker.check_model(after)
    assert lost(graph, after, data) < 0.1
    if step.activations == "uint8":
        first = runs_as(STATIC.apply(Int8Static("minmax", "uint8", True, "all"), graph, data))
        mine = runs_as(after)
        assert all(mine[name] == first[name] for name in ("QLinearConv", "QLinearAdd", "Conv"))


@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_nncf_computes_depthwise_convolutions_before_a_clip_in_integers(activations: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(), nn.Conv2d(8, 128, 1), nn.ReLU6(),
                          nn.Conv2d(128, 64, 1), nn.ReLU(), nn.Conv2d(64, 8, 1), nn.Flatten()).eval()
    data = {"input0": np.random.default_rng(0).normal(size=(64, 8, 8, 8)).astype(np.float32) * 8}
    graph = export(model, (data["input0"][:2],))
    step = Int8Nncf("mixed", activations, "minmax", True)
    after = NNCF.apply(step, graph, data)
    NNCF.check(step, graph, after)
    assert lost(graph, after, data) < 0.05
    if activations == "uint8":
        assert runs_as(after)["QLinearConv"] >= 3 and not runs_as(after)["FusedConv"]


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_nncf_computes_products_with_weights_in_integers(activations: str, smooth: bool) -> None:
    graph, data, _ = case("transformer")
    step = Int8Nncf("mixed", activations, "minmax", True, smooth)
    after = NNCF.apply(step, graph, data)
    NNCF.check(step, graph, after)
    onnx.checker.check_model(after)
    assert lost(graph, after, data) < 0.1
    operators = runs_as(after)
    assert sum(operators[name] for name in ("MatMulIntegerToFloat", "QLinearMatMul")) >= 4
    assert ("nncf_smooth_quant" in str(after)) == smooth


def test_signedness_changes_no_result() -> None:
    graph, data, _ = case("cnn")
    signed, unsigned = (NNCF.apply(Int8Nncf("mixed", activations, "minmax", True), graph, data)
                        for activations in ("int8", "uint8"))
    np.testing.assert_allclose(run(signed, data), run(unsigned, data), atol=1e-2)


def test_nncf_is_deterministic_and_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    graph, data, _ = case("cnn")
    once, twice = (NNCF.apply(MIXED, graph, data).SerializeToString() for _ in range(2))
    assert once == twice
    assert not any(capfd.readouterr())


@pytest.mark.slow
def test_nncf_sends_no_usage_statistics() -> None:
    script = """
from cases import case
from pared.spaces.passes.int8_nncf import Int8Nncf, Int8NncfPass
graph, data, _ = case("cnn")
Int8NncfPass().apply(Int8Nncf("mixed", "uint8", "minmax", True, False), graph, data)
from nncf.telemetry.wrapper import telemetry
print(type(telemetry).__name__)"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True,
                            cwd=Path(__file__).parent.parent)
    assert result.stdout.splitlines()[-1] == "MagicMock"


@pytest.mark.parametrize("name", ["qkv.weight", "down.weight", "head.weight"])
def test_nncf_leaves_kept_weights_and_what_they_read_in_float(name: str) -> None:
    graph, data, _ = case("transformer")
    step = Int8Nncf("mixed", "uint8", "minmax", True, True)
    after = NNCF.apply(step, graph, data, frozenset({name}))
    NNCF.check(step, graph, after)
    kept = next(tensor for tensor in after.graph.initializer if tensor.name == name)
    np.testing.assert_array_equal(_onnx.array(kept), _onnx.array(_onnx.weights(graph)[name]))
    made = {output: node for node in after.graph.node for output in node.output}
    reader = next(node for node in after.graph.node if name in node.input)
    assert made[reader.input[0]].op_type not in ("DequantizeLinear", "Mul")
    assert lost(graph, after, data) < 0.1


@pytest.mark.parametrize("sabotage", ["_set_signedness_", "_quantized", "_smoothing"])
def test_a_sabotaged_second_engine_is_caught(sabotage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, data, _ = case("transformer")
    step = Int8Nncf("mixed", "uint8", "minmax", False, True)
    others = {"_set_signedness_": lambda graph, activations: None, "_smoothing": lambda model: {},
              "_quantized": lambda step, model, batches, ignored: model}
    monkeypatch.setattr(int8_nncf, sabotage, others[sabotage])
    with pytest.raises(GateError):
        NNCF.check(step, graph, NNCF.apply(step, graph, data))


def test_nncf_says_what_to_install_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, data, scope = case("cnn")
    monkeypatch.setattr(int8_nncf, "find_spec", lambda name: None)
    assert "pip install 'pared[ptq]'" in str(NNCF.refused(scope))
    with pytest.raises(MissingExtraError, match="pared\\[ptq\\]"):
        NNCF.apply(MIXED, graph, data)


def test_both_engines_ask_for_calibration_data() -> None:
    graph, _, _ = case("cnn")
    for engine, step in ((STATIC, Int8Static("mse", "uint8", True, "all")), (NNCF, MIXED)):
        with pytest.raises(GateError, match="needs calibration data"):
            engine.apply(step, graph, {})


def test_smoothing_is_offered_where_matrix_products_hold_the_weights() -> None:
    profile = (load("host-cpu"),)
    assert "smooth" in NNCF.knobs(Scope((), {"MatMul": 0.9}, profile))
    assert "smooth" not in NNCF.knobs(Scope((), {"Conv": 0.9, "Gemm": 0.1}, profile))
    assert NNCF.refused(Scope((), {"Gather": 1.0}, profile))
