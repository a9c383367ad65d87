"""What a run keeps in its journal, as a schema: whatever reads a run can rely on it.

Optuna checks the shape of its own records only. Values are checked and left as they are: a reader sees what
was written. Keys that are not known are another version's and are left alone.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)

from ..errors import RunError, shown
from ..evaluators.measurement import Unit
from ..hardware_profiles.backend import Evidence
from .records import State

FINAL = "final:"  # and a sha256: the study attribute that holds its final scoring
REMEDY = "; put back a copy from before, or start a new run"
LARGEST = 1e15  # of a figure, in any unit: beyond it is damage
PROFILE = r"^[a-z0-9][a-z0-9.-]*$"  # a file is named after it

Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(ge=1 / LARGEST, le=LARGEST)]
Amount = Annotated[float, Field(ge=0, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=int(LARGEST))]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Shipped = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\.[a-z0-9]{1,12}$")]
Profile = Annotated[str, Field(pattern=PROFILE)]


class _Note(BaseModel):
    """Strict: "1" is no number."""

    model_config = ConfigDict(strict=True)


class _Whole(_Note):
    """One that is read with all its keys."""

    model_config = ConfigDict(extra="forbid")


class _Figure(_Whole):
    value: Amount
    unit: Unit
    evidence: Evidence
    spread: Amount = 0.0
    n: Count = 1
    ratio: Positive | None = None
    unstable: bool = False
    low: Number | None = None
    high: Number | None = None
    calibrated: bool = True


class _Drop(_Whole):
    value: Number
    low: Number
    high: Number
    n: Count


def _sized(figures: dict[str, _Figure]) -> dict[str, _Figure]:
    """A latency is what others are divided by, and so is a size."""
    for name, figure in figures.items():
        if name.startswith(("latency_ms@", "size_bytes")) and figure.value < 1 / LARGEST:
            raise ValueError(f"{name} is {figure.value}, it must be above 0")
    return figures


def _complete(figures: dict[str, _Figure]) -> dict[str, _Figure]:
    if absent := {"accuracy", "size_bytes", "memory_bytes"} - figures.keys():
        raise ValueError(f"no {', '.join(sorted(absent))}")
    return figures


Figures = Annotated[dict[str, _Figure], AfterValidator(_sized)]


class _Outcome(_Note):
    """Of `records.Outcome`, what is read again."""

    state: State
    reason: str
    trained: Digest | Literal[""] = ""
    size_only: dict[str, list[str]] = {}
    absent: dict[str, str] = {}
    shipped: dict[Profile, Shipped] = {}
    remarks: dict[str, list[str]] = {}
    notes: list[str] = []
    trained_s: Amount = 0.0
    saved_s: Amount = 0.0


class _Scored(_Outcome):
    sha256: Digest
    metrics: Annotated[Figures, AfterValidator(_complete)]
    drop: _Drop
    size_only: dict[str, list[str]]


class _Trial(_Note):
    """Of any trial. One that ended has a recipe and an outcome."""

    recipe: str | None = None
    digest: str | None = None
    attempt: Count = 0
    started: Amount | None = None
    ended: Amount | None = None
    outcome: _Outcome | None = None
    repeat_of: Count | None = None
    origin: str | None = None
    file: Digest | None = None

    @model_validator(mode="before")
    @classmethod
    def _there_or_absent(cls, plain: Any) -> Any:
        if isinstance(plain, dict) and (empty := [name for name, value in plain.items() if value is None]):
            raise ValueError(f"{', '.join(empty)}: null; what is not known is left out")
        return plain

    @model_validator(mode="after")
    def _whole(self) -> "_Trial":
        if self.ended is not None and (self.recipe is None or self.outcome is None):
            raise ValueError("it ended without a recipe or an outcome")
        return self


class _Complete(_Trial):
    recipe: str
    ended: Amount
    outcome: _Scored


class _Told(_Note):
    values: list[Number]


class _Untouched(_Whole):
    sha256: Digest
    size_bytes: Annotated[Count, Field(ge=1)]
    accuracy: Annotated[float, Field(ge=0, le=1)]
    latency_ms: dict[str, Positive]
    memory_bytes: Annotated[Count, Field(ge=1)]
    absent: dict[str, str] = {}


class _Final(_Note):
    metrics: Figures
    drop: _Drop


class _Study(_Note):
    untouched: _Untouched | None = None
    content: str = ""
    trained: dict[str, Annotated[tuple[Digest, Amount], Strict(False)]] = {}  # a list, in JSON
    final: dict[Digest, _Final] = {}


def check_study(where: str, attrs: Mapping[str, Any]) -> None:
    """Raises RunError saying which note of the study is not what pared writes."""
    final = {name.removeprefix(FINAL): plain for name, plain in attrs.items() if name.startswith(FINAL)}
    _fit(_Study, where, {**attrs, "final": final})


def check_trial(where: str, attrs: Mapping[str, Any]) -> None:
    """The same of a trial, whatever became of it."""
    _fit(_Trial, where, attrs)


def check_complete(where: str, attrs: Mapping[str, Any], values: object, objectives: int) -> None:
    """The same of a complete one: it has all that makes a candidate, and a value for each objective."""
    _fit(_Complete, where, attrs)
    _fit(_Told, where, {"values": values})
    if not isinstance(values, list) or len(values) != objectives:
        raise RunError(f"{where}: damaged: {shown(values)} for {objectives} objectives{REMEDY}")


def _fit(kind: type[_Note], where: str, plain: object) -> None:
    try:
        kind.model_validate(plain)
        json.dumps(plain, ensure_ascii=False).encode()  # half a character cannot be shown
    except ValidationError as error:
        first = error.errors()[0]
        told = f"{'.'.join(map(str, first['loc'])) or 'notes'}: {first['msg']} (got {shown(first['input'])})"
        raise RunError(f"{where}: damaged: {told}{REMEDY}") from error
    except ValueError as error:
        raise RunError(f"{where}: damaged: {error}{REMEDY}") from error
