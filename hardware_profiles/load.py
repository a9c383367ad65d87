"""YAML -> checked profile, by catalogue name or by path."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import ProfileError, shown, unknown
from . import plain
from .profile import HardwareProfile

CATALOG = Path(__file__).parent / "catalog"


def known() -> tuple[str, ...]:
    """The names in the catalogue, sorted."""
    return tuple(sorted(path.stem for path in CATALOG.glob("*.yaml")))


def load(name_or_path: str | Path) -> HardwareProfile:
    """The profile of that name, or the one in that file (anything ending in .yaml or .yml).

    A file may say `extends: NAME` (or a path beside it) and then only what differs.
    Raises ProfileError: unknown name, unreadable file, a number without unit or source.
    """
    path = _path(name_or_path)
    try:
        return HardwareProfile.model_validate(_placed(_fields(path), path.parent))
    except ValidationError as error:
        raise ProfileError(f"profile {path}:\n{_lines(error)}") from error


def dump(profile: HardwareProfile) -> str:
    """The profile as YAML that `load` reads back."""
    return yaml.safe_dump(profile.model_dump(mode="json", exclude_none=True), sort_keys=False, width=110)


def is_path(name_or_path: str | Path) -> bool:
    return Path(name_or_path).suffix in (".yaml", ".yml")


def _path(name_or_path: str | Path) -> Path:
    if is_path(name_or_path):
        return Path(name_or_path)
    if str(name_or_path) not in known():
        raise ProfileError(unknown("profile", name_or_path, known())
                           + " (or the path of a .yaml file; `pared profiles` lists them)")
    return CATALOG / f"{name_or_path}.yaml"


def _fields(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a file over those of the profile that it extends."""
    try:
        fields = dict(_catalogued(path) if path.parent == CATALOG else plain.read(path))
    except ValueError as error:
        raise ProfileError(f"profile {path}: {error}; expected keys such as name and device") from error
    base = fields.pop("extends", None)
    if base is None:
        return fields
    if not isinstance(base, str):
        raise ProfileError(f"profile {path}: extends is {shown(base)}; write the name or path of a profile")
    if path.resolve() in seen:
        raise ProfileError(f"profile {path} extends itself")
    below = _path(path.parent / base if is_path(base) else base)
    return _merged(_fields(below, (*seen, path.resolve())), fields)


@cache
def _catalogued(path: Path) -> dict[str, Any]:
    """Of the wheel, and so the same for as long as the process lives."""
    return plain.read(path)


def _placed(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A table of measurements is beside the profile that names it, wherever both are moved."""
    backend = fields.get("backend")
    if not isinstance(backend, dict) or not isinstance(backend.get("path"), str) or "\0" in backend["path"]:
        return fields
    return {**fields, "backend": {**backend, "path": str((folder / backend["path"]).resolve())}}


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Group by group; a group with a unit or a kind is one thing and is replaced as a whole."""
    whole = {"unit", "kind"}
    return {**base, **{
        key: _merged(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict) and not whole & value.keys()
        else value for key, value in over.items()}}


def _lines(error: ValidationError) -> str:
    rows = ((".".join(map(str, e["loc"])) or "profile", e["msg"]) for e in error.errors())
    return "\n".join(f"  {where}: {what}" for where, what in rows)
