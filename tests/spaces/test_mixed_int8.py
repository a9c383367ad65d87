"""8 bits or float layer by layer, on real files as ONNX Runtime runs them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from cases import case, run

from pared.errors import GateError
from pared.hardware_profiles.graph import read
from pared.spaces.passes import FILE, int8_static, mixed_int8
from pared.spaces.passes.mixed_int8 import UNIFORM, MixedInt8, MixedInt8Pass, predicted
from pared.spaces.recipe import Recipe, from_json

PASS = MixedInt8Pass()
SHARES = (0.15, 0.4, 0.7)


def step(kind: str, share: float) -> MixedInt8:
    scope = case(kind)[2]
    made = PASS.decode({"float_share": share, "activations": "uint8"}, scope)
    assert made is not None
    return made


def float_macs(model: onnx.ModelProto) -> int:
    """Multiply-adds with weights that really run in float."""
    return sum(k.macs for k in read(model.SerializeToString()) if k.weights and k.dtype == "fp32")


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
@pytest.mark.parametrize("share", SHARES)
def test_the_file_is_within_its_budget_of_predicted_time(kind: str, share: float) -> None:
    graph, data, _ = case(kind)
    made = step(kind, share)
    file = PASS.apply(made, graph, data)
    PASS.check(made, graph, file)
    onnx.checker.check_model(file)
    low = predicted(UNIFORM.apply(mixed_int8._uniform(made), graph, data), made)
    high = predicted(graph, made)
    assert predicted(file, made) <= low + share * max(0.0, high - low) + 1e-6
    assert file.SerializeToString() == PASS.apply(made, graph, data).SerializeToString()


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_float_layers_really_run_in_float_and_the_others_in_8_bits(kind: str) -> None:
    graph, data, _ = case(kind)
    made = step(kind, 0.7)
    file = PASS.apply(made, graph, data)
    left = set(made.floats) & {t.name for t in file.graph.initializer}
    shapes = {t.name: int(np.prod(t.dims)) for t in graph.graph.initializer}
    kernels = Counter(k.weights for k in read(file.SerializeToString()) if k.dtype == "fp32" and k.weights)
    assert kernels == Counter(shapes[name] for name in left)


def test_a_float_layer_behind_8_bits_is_rounded_by_the_runtime_unless_it_is_shielded(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, data, _ = case("cnn")
    made, keep = mixed_int8._uniform(step("cnn", 0.4)), frozenset({"inner.weight"})
    assert float_macs(UNIFORM.apply(made, graph, data, keep)) == 16 * 16 * 9 * 14 * 14
    monkeypatch.setattr(int8_static, "shielded", lambda model: model)
    bare = UNIFORM.apply(made, graph, data, keep)
    assert float_macs(bare) == 0, "the shield is no longer needed: ONNX Runtime leaves such a layer alone"


def test_more_time_means_less_error() -> None:
    graph, data, _ = case("cnn")
    want = run(graph, data)
    files = [PASS.apply(step("cnn", share), graph, data) for share in (0.15, 0.7)]
    errors = [float(np.linalg.norm(run(f, data) - want)) for f in files]
    assert errors[1] < errors[0]


def test_layers_that_would_break_the_budget_go_back_to_8_bits() -> None:
    graph, data, _ = case("cnn")
    made = step("cnn", 0.4)
    names = tuple(sorted({*made.floats, *made.int8}, key=lambda name: name not in made.floats))
    greedy = replace(made, floats=names, int8=())
    file = PASS.apply(greedy, graph, data)
    low, high = predicted(UNIFORM.apply(mixed_int8._uniform(made), graph, data), made), predicted(graph, made)
    assert predicted(file, made) <= low + 0.4 * (high - low)
    left = [name for name in names if name in {t.name for t in file.graph.initializer}]
    assert left and left == list(names[: len(left)]) and len(left) < len(names)


def test_a_budget_that_takes_no_float_layer_at_all_is_told() -> None:
    graph, data, _ = case("cnn")
    with pytest.raises(GateError, match="not even"):
        PASS.apply(replace(step("cnn", 0.4), floats=("inner.weight",), share=1e-6), graph, data)
    with pytest.raises(GateError, match="calibration data"):
        PASS.apply(step("cnn", 0.4), graph, {})


@pytest.mark.parametrize("sabotage", [
    lambda step: replace(step, floats=("down.0.weight",), share=0.99),  # another layer
    lambda step: replace(step, floats=(*step.floats, *step.int8), int8=(), share=0.99),  # too many
])
def test_a_sabotaged_pass_that_leaves_other_layers_in_float_is_caught(sabotage) -> None:
    graph, data, _ = case("cnn")
    made = step("cnn", 0.4)
    file = PASS.apply(sabotage(made), graph, data)
    with pytest.raises(GateError, match="float"):
        PASS.check(made, graph, file)


def test_a_file_that_is_all_8_bits_or_all_float_is_caught() -> None:
    graph, data, _ = case("cnn")
    made = step("cnn", 0.4)
    for file in (UNIFORM.apply(mixed_int8._uniform(made), graph, data), graph):
        with pytest.raises(GateError):
            PASS.check(made, graph, file)


def test_kept_layers_stay_in_float_beside_those_that_were_chosen() -> None:
    graph, data, scope = case("cnn")
    others = {name: rise for name, rise in scope.sensitivity.int8.items() if name != "inner.weight"}
    made = PASS.decode({"float_share": 0.6, "activations": "uint8"},
                       replace(scope, sensitivity=replace(scope.sensitivity, int8=others)))
    file = PASS.apply(made, graph, data, frozenset({"inner.weight"}))
    PASS.check(made, graph, file)
    assert "inner.weight" in {t.name for t in file.graph.initializer}


def test_the_step_goes_through_json_and_names_what_it_does() -> None:
    recipe = Recipe((step("cnn", 0.4),))
    assert from_json(recipe.json) == recipe and "in float" in recipe.label
    assert FILE["mixed_int8"].needs(recipe.steps[0]) == "int8"


def test_it_is_of_no_use_where_no_device_computes_in_8_bits() -> None:
    scope = case("cnn")[2]
    host = scope.profiles[0]
    floats = host.model_copy(update={"precisions": {"fp32": host.precisions["fp32"]}})
    assert "8 bits" in str(PASS.refused(replace(scope, profiles=(floats,))))
    assert "sensitivity" in str(PASS.refused(replace(scope, sensitivity=None)))
    assert PASS.refused(scope) is None
