"""Trainings that are done already: whole ones as float files, begun ones as weights to go on from."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import onnx
import torch

from ..spaces.fingerprint import code, of_module
from ..spaces.passes._base import Step
from ..spaces.passes.student import fresh
from ..spaces.recipe import Recipe
from .cache import Cache, Entry, key

if TYPE_CHECKING:
    from .trial import Bench

FILE, WEIGHTS = "file", "weights"


class Trainings:
    """What the cache has of the recipes of one run; nothing where the run has no cache."""

    def __init__(self, bench: "Bench") -> None:
        self.bench = bench
        self.cache = Cache(bench.cache) if bench.cache and bench.content else None

    def file(self, recipe: Recipe) -> Entry | None:
        """The float file that the module and training steps of a recipe lead to."""
        return self.cache.get(self._key(FILE, recipe.prefix)) if self.cache else None

    def keep_file(
        self, recipe: Recipe, graph: onnx.ModelProto, train_s: float = 0.0, notes: Sequence[str] = ()
    ) -> None:
        """`notes`: what the passes had to say of it."""
        if self.cache:
            self.cache.put(self._key(FILE, recipe), graph.SerializeToString(), train_s=train_s,
                           notes=list(notes))

    def left(self, recipe: Recipe, legs: Sequence[Any], model: torch.nn.Module) -> Sequence[Any]:
        """The legs that are not trained yet; `model` gets the weights after the last one that is."""
        for done in range(len(legs), 0, -1):
            if self._restored(recipe, legs[done - 1], model):
                return legs[done:]
        return legs

    def keep_weights(self, recipe: Recipe, leg: Step, model: torch.nn.Module) -> None:
        if not self.cache:
            return
        with suppress(TypeError, AttributeError):  # numpy has no bfloat16, and not all state is a tensor
            arrays = {name: value.detach().numpy() for name, value in model.state_dict().items()}
            self.cache.put_arrays(self._key(WEIGHTS, _until(recipe, leg)), arrays)

    def _restored(self, recipe: Recipe, leg: Step, model: torch.nn.Module) -> bool:
        found = self.cache.arrays(self._key(WEIGHTS, _until(recipe, leg))) if self.cache else None
        if found is None:
            return False
        model.load_state_dict({name: torch.from_numpy(array) for name, array in found.items()})
        return True

    def _key(self, kind: str, recipe: Recipe) -> str:
        """Of everything that a training depends on."""
        bench = self.bench
        students = {name: of_module(fresh(build, bench.seed)) for name, build in bench.students.items()
                    if f'"{name}"' in recipe.json}
        return key(kind, code(), bench.content, bench.seed, bench.keep, students, recipe.json)


def _until(recipe: Recipe, leg: Step) -> Recipe:
    """The recipe as far as that leg of its training."""
    return Recipe((*(step for _, step in recipe.module_steps), leg))
