"""YAML -> checked profile, by catalogue name or by path."""

from pathlib import Path

import yaml
from pydantic import ValidationError

from ..errors import ProfileError, unknown
from .profile import HardwareProfile

CATALOG = Path(__file__).parent / "catalog"


def known() -> tuple[str, ...]:
    """The names in the catalogue, sorted."""
    return tuple(sorted(path.stem for path in CATALOG.glob("*.yaml")))


def load(name_or_path: str | Path) -> HardwareProfile:
    """The profile of that name, or the one in that file (anything ending in .yaml or .yml).

    Raises ProfileError: unknown name, unreadable file, a number without unit or source.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in known():
            raise ProfileError(unknown("profile", name_or_path, known()))
        path = CATALOG / f"{name_or_path}.yaml"
    try:
        fields = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(f"profile {path}: {error}") from error
    try:
        return HardwareProfile.model_validate(fields)
    except ValidationError as error:
        raise ProfileError(f"profile {path}:\n{_lines(error)}") from error


def _lines(error: ValidationError) -> str:
    rows = ((".".join(map(str, e["loc"])) or "profile", e["msg"]) for e in error.errors())
    return "\n".join(f"  {where}: {what}" for where, what in rows)
