"""What is done to a model: steps in order, with one canonical text and one digest."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import sha256
from typing import Any, get_args, get_origin

from ..errors import RecipeError, shown, unknown
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
            raise RecipeError(f"recipe version {shown(data['version'])}, this pared reads {VERSION}")
        return Recipe(tuple(_step(dict(entry)) for entry in data["steps"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RecipeError(f"not a recipe: {str(error)[:400]} (in {shown(text)})") from error


def _step(entry: dict[str, Any]) -> Step:
    """Raises what `from_json` catches where a field is missing, strange or of another type."""
    name = entry.pop("pass")
    if not isinstance(name, str):
        raise TypeError(f"pass is {shown(name)}, it must be the name of a technique")
    if name not in PASSES:
        raise RecipeError(unknown("technique", name, PASSES))
    settings = {key: _frozen(value) for key, value in entry.items()}
    json.dumps(settings, ensure_ascii=False, allow_nan=False).encode()  # finite, and no half characters
    step: Step = PASSES[name].step(**settings)
    for field in fields(step):
        if not _is(value := getattr(step, field.name), field.type):
            raise TypeError(f"{name}: {field.name} is {shown(value)}, it must be {field.type}")
    return step


def _is(value: object, kind: Any) -> bool:
    """Whether a value is of the type of a field: text, a number, yes or no, or a tuple of such."""
    if get_origin(kind) is not tuple:
        if type(value) is int:
            return kind in (int, float) and abs(value) < 2**53
        return type(value) is kind
    parts, size = get_args(kind), len(value) if isinstance(value, tuple) else -1
    if parts[-1] is ...:
        parts = parts[:1] * size
    elif getattr(parts[-1], "__unpacked__", False):  # (str, *tuple[float, ...])
        parts = parts[:-1] + get_args(parts[-1])[:1] * (size - len(parts) + 1)
    return isinstance(value, tuple) and len(parts) == size and all(map(_is, value, parts))


def _settings(step: Step) -> dict[str, Any]:
    """Without what is at its default: a field that comes later leaves the digests of old recipes alone."""
    return {field.name: getattr(step, field.name) for field in fields(step)
            if getattr(step, field.name) != field.default}


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
