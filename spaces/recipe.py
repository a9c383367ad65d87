"""What is done to a model: steps in order, with one canonical text and one digest."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import sha256
from typing import Any

from ..errors import RecipeError, unknown
from . import legal
from .passes import FILE, MODULE, PASSES, TRAINING, TUNING
from .passes._base import Step

VERSION = 1
_NAME_OF = {technique.step: name for name, technique in PASSES.items()}


@dataclass(frozen=True)
class Recipe:
    """Steps in order. Equal recipes have equal digests; the empty one is the untouched model."""

    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        legal.check(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(_NAME_OF[type(step)] for step in self.steps)

    @cached_property
    def json(self) -> str:
        """Canonical: sorted keys, no spaces, fields at their defaults left out."""
        steps = [{"pass": name, **_settings(step)}
                 for name, step in zip(self.names, self.steps, strict=True)]
        return json.dumps({"version": VERSION, "steps": steps}, sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the sha256 of the canonical JSON."""
        return sha256(self.json.encode()).hexdigest()[:16]

    @property
    def module_steps(self) -> tuple[tuple[str, Step], ...]:
        return self._of(MODULE)

    @property
    def training_steps(self) -> tuple[tuple[str, Step], ...]:
        return self._of(TRAINING)

    @property
    def file_steps(self) -> tuple[tuple[str, Step], ...]:
        """What is done to the exported file, training inside it included."""
        return self._of({**FILE, **TUNING})

    @property
    def tuning_steps(self) -> tuple[tuple[str, Step], ...]:
        return self._of(TUNING)

    @property
    def trains(self) -> bool:
        return bool(self.training_steps or self.tuning_steps)

    @cached_property
    def prefix(self) -> "Recipe":
        """The part that yields the float model, shared by all its post-training variants."""
        return Recipe(tuple(step for _, step in (*self.module_steps, *self.training_steps)))

    @property
    def label(self) -> str:
        """One short line for people."""
        return " + ".join(map(str, self.steps)) or "untouched"

    def _of(self, table: Mapping[str, object]) -> tuple[tuple[str, Step], ...]:
        return tuple((n, s) for n, s in zip(self.names, self.steps, strict=True) if n in table)


def from_json(text: str) -> Recipe:
    """The recipe of a canonical (or any equivalent) JSON text. Raises RecipeError."""
    try:
        data = json.loads(text)
        if data["version"] != VERSION:
            raise RecipeError(f"recipe version {data['version']!r}, this pared reads {VERSION}")
        return Recipe(tuple(_step(dict(entry)) for entry in data["steps"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"not a recipe: {error!r}") from error


def _step(entry: dict[str, Any]) -> Step:
    name = entry.pop("pass")
    if name not in PASSES:
        raise RecipeError(unknown("technique", name, PASSES))
    step: Step = PASSES[name].step(**{key: _frozen(value) for key, value in entry.items()})
    return step


def _settings(step: Step) -> dict[str, Any]:
    """Without what is at its default: a field that comes later leaves the digests of old recipes alone."""
    return {field.name: getattr(step, field.name) for field in fields(step)
            if getattr(step, field.name) != field.default}


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
