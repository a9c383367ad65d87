import pytest

from pared.errors import RecipeError
from pared.spaces import legal
from pared.spaces.passes import PASSES
from pared.spaces.passes.fp16 import Fp16
from pared.spaces.passes.int8_static import Int8Static
from pared.spaces.passes.prune import Prune
from pared.spaces.passes.recover import Recover
from pared.spaces.recipe import Recipe, from_json

PRUNE, RECOVER = Prune((0.5, 0.3), "l2", 8), Recover(2, 0.003, 4.0, 0.8)
INT8 = Int8Static("minmax", "uint8", True, "all")


def test_json_goes_both_ways_and_the_digest_is_that_of_the_content() -> None:
    recipe = Recipe((PRUNE, RECOVER, INT8))
    again = from_json(recipe.json)
    assert again == recipe and again.digest == recipe.digest
    assert Recipe((PRUNE, RECOVER, Fp16())).digest != recipe.digest
    assert from_json(recipe.json.replace(",", " ,\n")).digest == recipe.digest


def test_digest_is_stable_over_versions() -> None:
    # Runs and caches are keyed by it: a change here needs a new recipe version.
    assert Recipe().json == '{"steps":[],"version":1}'
    assert Recipe((INT8,)).digest == "1fd0b46fc4febb00"


def test_prefix_is_what_training_yields() -> None:
    recipe = Recipe((PRUNE, RECOVER, INT8))
    assert recipe.trains and recipe.prefix == Recipe((PRUNE, RECOVER))
    assert Recipe((INT8,)).prefix == Recipe()


@pytest.mark.parametrize(("steps", "told"), [
    ((RECOVER, PRUNE), "out of order"),
    ((PRUNE, PRUNE), "repeated"),
    ((Fp16(), INT8), "exclude each other"),
])
def test_illegal_recipes_are_refused(steps: tuple, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        Recipe(steps)


@pytest.mark.parametrize("text", ["", "[]", '{"version":9,"steps":[]}', '{"version":1,"steps":[{"pass":"x"}]}',
                                  '{"version":1,"steps":[{"pass":"fp16","bits":3}]}'])
def test_from_json_refuses_what_is_no_recipe(text: str) -> None:
    with pytest.raises(RecipeError):
        from_json(text)


def test_every_technique_has_its_place_in_the_order() -> None:
    assert set(legal.ORDER) == set(PASSES)
