import random
from itertools import combinations

import pytest

from pared.errors import ConfigError
from pared.hardware_profiles.load import load
from pared.spaces import legal, space
from pared.spaces.knob import Choice, Knob, Value
from pared.spaces.passes import PASSES, Scope

CNN = Scope(("stage1", "stage2"), {"Conv": 0.9, "Gemm": 0.1}, (load("host-cpu"),))
TRANSFORMER = Scope(("stage1",), {"MatMul": 0.9}, (load("host-cpu"),))
EVERYTHING = Scope(("stage1", "stage2"), {"Conv": 0.5, "MatMul": 0.3, "Gemm": 0.2}, (load("host-cpu"),),
                   heads={"attention": 4}, blocks=("a", "b"), factors=("linear",), students=("small",),
                   taps=("a", "b"))


def roll(dice: random.Random):
    def pick(name: str, knob: Knob) -> Value:
        if isinstance(knob, Choice):
            return dice.choice(knob.options)
        return knob.nearest(dice.uniform(knob.low, knob.high))

    return pick


@pytest.mark.parametrize("scope", [CNN, TRANSFORMER, EVERYTHING])
def test_every_walk_spells_a_legal_recipe(scope: Scope) -> None:
    built, dice = space.build(scope, {}), random.Random(0)
    recipes = [built.decode(built.walk(roll(dice))) for _ in range(1000)]
    seen = {name for recipe in recipes for name in recipe.names}
    assert seen == set(PASSES) - set(built.left_out)
    assert len({recipe.digest for recipe in recipes}) > 250


def test_pruning_by_nothing_is_the_untouched_recipe() -> None:
    built = space.build(CNN, {"prune": {"ratio": 0.0}})
    values = built.walk(lambda name, knob: True if name == "prune" else built_default(knob))
    assert built.decode(values).steps == ()


def built_default(knob: Knob) -> Value:
    return knob.options[0] if isinstance(knob, Choice) else knob.low


def test_anchors_are_the_untouched_model_and_the_known_good_recipes() -> None:
    built = space.build(CNN, {})
    names = [built.decode(values).names for values in built.anchors()]
    assert names[:3] == [(), ("fp16",), ("int8_static",)]
    assert names.count(("prune", "recover")) == 5
    assert names.count(("prune", "recover", "int8_static")) == 5


@pytest.mark.parametrize("wish", [
    {"prune": False}, {"int8_static": False}, {"prune": {"ratio": [0.6, 0.8]}}, {"recover": {"epochs": 1}},
    {name: False for name in ("prune", "recover", "fp16", "int8_static", "weight_only", "int8_dynamic")},
])
def test_the_untouched_model_is_always_the_first_anchor(wish: dict) -> None:
    built = space.build(CNN, wish)
    recipes = [built.decode(values) for values in built.anchors()]
    assert recipes[0].steps == ()
    assert len(set(recipe.digest for recipe in recipes)) == len(recipes)


def test_anchors_stay_within_narrowed_knobs() -> None:
    built = space.build(CNN, {"prune": {"ratio": [0.6, 0.8]}, "recover": {"epochs": [1, 2]}})
    for values in built.anchors():
        for name, value in values.items():
            assert value in built.knobs[name], (name, value)


def test_siblings_share_the_training_and_differ_in_precision() -> None:
    built = space.build(CNN, {"int8_nncf": False})
    trained = built.anchors()[4]
    recipes = [built.decode(values) for values in built.siblings(trained)]
    assert len({recipe.prefix.digest for recipe in recipes}) == 1
    assert [r.names[2:] for r in recipes] == [
        (), ("fp16",), ("int8_static",), ("int8_dynamic",), ("weight_only",), ("weight_only",)]


def test_siblings_of_a_sparse_training_are_formats_that_keep_its_zeros() -> None:
    built = space.build(CNN, {"int8_nncf": False})
    sparse = built.setting({"sparsify": 0}, "none")
    names = [built.decode(values).names for values in built.siblings(sparse)]
    assert names == [("sparsify", "recover", *form, "pack_zeros") for form in ((), ("fp16",), ("int8_static",))]


def test_what_excludes_each_other_does_so_in_both_directions() -> None:
    def excluded(first: str, second: str) -> bool:
        return "exclude" in (legal.objection(second, [first]) or "")

    pairs = [(a, b) for a in PASSES for b in PASSES if a != b]
    assert all(excluded(a, b) == excluded(b, a) for a, b in pairs)
    assert sum(excluded(a, b) for a, b in pairs) > 60


def test_whatever_two_techniques_may_follow_each_other_is_sampled() -> None:
    built, dice = space.build(EVERYTHING, {}), random.Random(1)
    seen = {pair for _ in range(6000) for pair in combinations(built.decode(built.walk(roll(dice))).names, 2)}
    allowed = {(a, b) for a, b in combinations(legal.ORDER, 2) if not built.left_out.keys() & {a, b}
               and "exclude" not in (legal.objection(b, [a]) or "")}
    # What brings something along excludes whatever that excludes.
    brought = {(a, b) for a, b in allowed for c in legal.BRINGS.get(b, ()) if "exclude" in (
        legal.objection(c, [a]) or "")} | {("int8_dynamic", "pack_zeros"), ("fp16", "qat"), ("int8_nncf", "qat"),
                                            ("int8_dynamic", "qat"), ("qat", "pack_zeros"),
                                            ("weight_only", "pack_zeros"), ("binary", "pack_zeros")}
    assert seen <= allowed and allowed - seen <= brought


def test_techniques_of_no_use_on_this_model_are_left_out_with_a_reason() -> None:
    built = space.build(Scope((), {"Conv": 1.0}, (load("host-cpu"),)), {})
    assert "no layer" in built.left_out["prune"] and "matrix products" in built.left_out["int8_dynamic"]
    assert built.decode(built.anchors()[0]).steps == ()


@pytest.mark.parametrize(("wish", "told"), [
    ({"prun": False}, "did you mean 'prune'"),
    ({"prune": {"ration": [0, 0.5]}}, "unknown knob 'ration'"),
    ({"prune": {"ratio": [0, 3]}}, "space.prune.ratio: got"),
    ({"int8_dynamic": True}, "cannot be used on this model"),
])
def test_wrong_wishes_are_told(wish: dict, told: str) -> None:
    scope = Scope(("stage1", "stage2"), {"Conv": 0.99, "Gemm": 0.01}, (load("host-cpu"),))
    with pytest.raises(ConfigError, match=told):
        space.build(scope, wish)
