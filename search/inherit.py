"""What a new run takes over from another run of the same model: files, trainings, and what led to them."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..evaluators.artifact import Store
from ..spaces.recipe import Recipe
from ..spaces.space import Values
from . import study as book
from .run import Run

Trained = Mapping[str, tuple[str, float]]  # prefix digest -> sha256 of the float file, seconds it took


@dataclass(frozen=True)
class Known:
    """A candidate that needs no training: its recipe, what spelled it there, its file."""

    recipe: Recipe
    values: Values
    sha256: str


@dataclass(frozen=True)
class Inheritance:
    """Nothing of it holds for another model or other data: `content` says which."""

    content: str
    known: tuple[Known, ...]
    trained: Trained


def inherited(path: Path) -> Inheritance:
    """What the run in `path` knows, the members of its front first. Raises RunError: it knows nothing."""
    run = Run(path)
    trials = {trial.number: trial for trial in run.trials}
    front = [candidate.trial for candidate in run.front()]
    order = sorted(run.candidates, key=lambda c: (c.trial not in front, c.trial))
    known = tuple(Known(c.recipe, trials[c.trial].params, c.sha256) for c in order if c.recipe.steps)
    outcomes = [(c.recipe, trials[c.trial].user_attrs[book.OUTCOME]) for c in run.candidates]
    trained = {recipe.prefix.digest: (found["trained"], float(found.get("trained_s", 0.0)))
               for recipe, found in outcomes if found.get("trained")}
    if not known:
        raise RunError(f"{path} has no scored candidate to start from")
    return Inheritance(str(run.study.user_attrs.get(book.CONTENT, "")), known, {**_earlier(run), **trained})


def take_over(found: Inheritance, origin: Path, store: Store) -> Inheritance:
    """The same, its files copied; what is missing or damaged there is left out."""
    theirs = Run(origin).store
    there = {sha: _copied(sha, theirs, store) for sha in
             {*(each.sha256 for each in found.known), *(sha for sha, _ in found.trained.values())}}
    return Inheritance(found.content, tuple(each for each in found.known if there[each.sha256]),
                       {name: each for name, each in found.trained.items() if there[each[0]]})


def _copied(sha256: str, theirs: Store, ours: Store) -> bool:
    with suppress(RunError):
        ours.put(theirs.get(sha256))
        return True
    return False


def _earlier(run: Run) -> dict[str, Any]:
    """What that run had taken over itself."""
    return {name: tuple(each) for name, each in run.study.user_attrs.get(book.TRAINED, {}).items()}
