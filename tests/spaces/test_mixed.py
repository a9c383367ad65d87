"""Bits layer by layer, on real files."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import onnx
import pytest
from cases import case, run

from pared.errors import GateError
from pared.spaces import space
from pared.spaces._milp import cheapest
from pared.spaces.passes import PASSES, mixed
from pared.spaces.passes.mixed import UNIFORM, Mixed, MixedPass, size_bytes
from pared.spaces.recipe import Recipe, from_json
from pared.spaces.sensitivity import BITS

PASS = MixedPass()


def step(kind: str, average: float, **values: object) -> Mixed:
    return PASS.decode({"average_bits": average, **values}, case(kind)[2])


@pytest.mark.parametrize(("kind", "bits", "block", "symmetric"), [
    *product(("cnn", "transformer"), BITS, (0, 32), (True, False))])
def test_the_size_is_what_the_file_really_grows_by(kind: str, bits: int, block: int, symmetric: bool) -> None:
    graph, _, scope = case(kind)
    layers = mixed._layers(scope)
    bare = graph.ByteSize() - sum(4 * layer.outputs * layer.inputs for layer in layers.values())
    expected = bare + sum(size_bytes(name, layer, bits, block, block, symmetric) for name, layer in layers.items())
    made = mixed.quantized(graph, dict.fromkeys(layers, bits), block, symmetric, "rtn", {}, block)
    assert made.ByteSize() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_a_file_is_within_the_size_of_uniform_bits_and_not_far_below(kind: str) -> None:
    graph, data, scope = case(kind)
    for average in (2, 3, 4, 8):
        uniform = UNIFORM.apply(UNIFORM.decode({"bits": average}, scope), graph, data)
        made = PASS.apply(step(kind, average), graph, data)
        assert made.ByteSize() <= uniform.ByteSize() * 1.002
        assert made.ByteSize() > uniform.ByteSize() * 0.7


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_more_bits_on_average_make_a_larger_file_with_less_summed_rise(kind: str) -> None:
    graph, data, scope = case(kind)
    steps = [step(kind, average) for average in (2, 2.5, 3, 4, 5, 6, 8)]
    rises = [sum(scope.sensitivity.bits[name][bits] for name, bits in each.bits) for each in steps]
    sizes = [PASS.apply(each, graph, data).ByteSize() for each in steps]
    assert all(a >= b for a, b in pairwise(rises)) and rises[0] > rises[-1]
    assert all(a <= b * 1.01 for a, b in pairwise(sizes)) and sizes[0] < sizes[-1]


def test_no_choice_of_bits_is_better_at_that_size() -> None:
    scope = case("cnn")[2]
    layers = mixed._layers(scope)
    sizes = {name: {bits: size_bytes(name, layer, bits, 32, 0, True) for bits in BITS}
             for name, layer in layers.items()}
    for average in (2.5, 3.25, 5.0):
        totals = [sum(row[bits] for row in sizes.values()) for bits in sorted(BITS)]
        budget = np.interp(average, sorted(BITS), np.minimum.accumulate(totals[::-1])[::-1])
        best = min(sum(scope.sensitivity.bits[n][b] for n, b in zip(sizes, each, strict=True))
                   for each in product(BITS, repeat=len(sizes))
                   if sum(sizes[n][b] for n, b in zip(sizes, each, strict=True)) <= budget)
        chosen = step("cnn", average).bits
        assert sum(scope.sensitivity.bits[n][b] for n, b in chosen) == pytest.approx(best, rel=1e-4)


def test_nothing_is_chosen_when_nothing_fits() -> None:
    assert cheapest({"a": {8: 0.1}}, {"a": {8: 100}}, 50) is None


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_the_file_runs_and_computes_about_the_same(kind: str, method: str) -> None:
    graph, data, _ = case(kind)
    made = step(kind, 5, method=method)
    before = graph.SerializeToString()
    file = PASS.apply(made, graph, data)
    PASS.check(made, graph, file)
    onnx.checker.check_model(file)
    assert graph.SerializeToString() == before
    want, got = run(graph, data), run(file, data)
    assert np.linalg.norm(want - got) < 0.2 * np.linalg.norm(want)
    assert file.SerializeToString() == PASS.apply(made, graph, data).SerializeToString()


@pytest.mark.parametrize("sabotage", [
    lambda step: replace(step, bits=tuple((name, 4) for name, _ in step.bits)),  # one number for all
    lambda step: replace(step, bits=tuple(zip([n for n, _ in step.bits], [b for _, b in step.bits[1:] + step.bits[:1]],
                                              strict=True))),  # the bits of the next layer
    lambda step: replace(step, bits=()),
])
def test_a_sabotaged_pass_that_packs_other_bits_is_caught(sabotage) -> None:
    graph, data, _ = case("cnn")
    made = step("cnn", 3)
    file = PASS.apply(sabotage(made), graph, data)
    with pytest.raises(GateError, match="levels"):
        PASS.check(made, graph, file)


def test_a_sabotaged_pass_that_leaves_weights_in_float_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, data, _ = case("cnn")
    made = step("cnn", 3)
    monkeypatch.setattr(mixed, "large", lambda model: ["inner.weight"])
    file = PASS.apply(made, graph, data)
    monkeypatch.undo()
    with pytest.raises(GateError, match="in float"):
        PASS.check(made, graph, file)
    with pytest.raises(GateError):
        PASS.check(made, graph, graph)


def test_kept_weights_stay_as_they_are() -> None:
    graph, data, scope = case("cnn")
    kept = {name: row for name, row in scope.sensitivity.bits.items() if name != "inner.weight"}
    narrowed = replace(scope, sensitivity=replace(scope.sensitivity, bits=kept))
    made = PASS.decode({"average_bits": 3}, narrowed)
    assert "inner.weight" not in dict(made.bits)
    file = PASS.apply(made, graph, data, frozenset({"inner.weight"}))
    assert "inner.weight" in {t.name for t in file.graph.initializer}
    PASS.check(made, graph, file)


def test_layers_that_were_not_measured_get_the_most_bits() -> None:
    graph, data, _ = case("cnn")
    made = step("cnn", 2.5)
    fewer = replace(made, bits=tuple(pair for pair in made.bits if pair[0] != "inner.weight"))
    file = PASS.apply(fewer, graph, data)
    PASS.check(fewer, graph, file)
    found = {**mixed.packed(file), **mixed.nbits.read(file)}
    assert found["inner.weight"].levels == 256


def test_the_step_goes_through_json() -> None:
    recipe = Recipe((step("cnn", 3),))
    assert from_json(recipe.json) == recipe and "layers" in recipe.label


def test_it_is_of_no_use_without_sensitivities() -> None:
    assert "sensitivity" in str(PASS.refused(replace(case("cnn")[2], sensitivity=None)))
    assert PASS.refused(case("cnn")[2]) is None


def test_its_usual_settings_are_anchors_all_along_the_budget() -> None:
    built = space.build(case("cnn")[2], {})
    steps = [s for values in built.anchors() for s in built.decode(values).steps if isinstance(s, Mixed)
             and built.decode(values).names == ("mixed",)]
    assert len(PASS.usual(case("cnn")[2])) >= 3
    assert len({s.bits for s in steps}) == len(steps) >= 3


def test_techniques_that_only_shrink_are_left_out_when_size_counts_for_nothing() -> None:
    scope = case("cnn")[2]
    built = space.build(scope, {}, size_counts=False)
    profile = scope.profiles[0]
    for name in ("fp16", "mixed", "weight_only"):
        used = any(profile.uses(need) for need in space.abilities(name, scope))
        assert (name in built.left_out) != used
        if not used:
            assert "neither an objective nor budgeted" in built.left_out[name]
    assert {"prune", "int8_static", "recover"} <= set(PASSES) - set(built.left_out)
    assert "mixed" not in space.build(scope, {"mixed": True}, size_counts=False).left_out
    assert "mixed" not in space.build(scope, {}).left_out


def test_a_trained_model_gets_one_of_the_usual_settings() -> None:
    built = space.build(case("cnn")[2], {})
    trained = next(values for values in built.anchors() if built.decode(values).names == ("prune", "recover"))
    names = [name for values in built.siblings(trained) for name in built.decode(values).names]
    assert names.count("mixed") == 1 and names.count("mixed_int8") <= 1
