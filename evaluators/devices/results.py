"""Latencies measured elsewhere, by artefact hash: what a device lab or a microcontroller hands in."""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError
from ._base import moved

REQUIRED, OPTIONAL = ("sha256", "latency_ms"), ("energy_uj", "ram_kb")
DIGEST = re.compile(r"[0-9a-f]{12,64}")


@dataclass(frozen=True, slots=True)
class Row:
    """One inference of one file; `sha256` may be its first 12 characters or more."""

    sha256: str
    latency_ms: float
    energy_mj: float | None
    ram_bytes: float | None

    def is_of(self, digest: str) -> bool:
        """Whether this row is of the file with that sha256, either of which may be a prefix."""
        return digest.startswith(self.sha256) or self.sha256.startswith(digest)


def read_csv(path: str | Path) -> list[Row]:
    """Rows in the order of measurement, columns sha256, latency_ms[, energy_uj, ram_kb (1024 bytes)].

    Raises ConfigError: no such file, no rows, or what is wrong with the row on which line.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            _check_header(path, reader.fieldnames or ())
            rows = [_row(f"{path}, line {reader.line_num}", fields) for fields in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"results {path}: {error}") from error
    if not rows:
        raise ConfigError(f"results {path}: no rows")
    return rows


def read_checked(path: str | Path) -> list[Row]:
    """The same, of a table whose first and last rows are the reference's. Raises ConfigError as both do."""
    rows = read_csv(path)
    check_reference(rows, rows[0].sha256)
    return rows


def latest(rows: Sequence[Row], digest: str) -> Row | None:
    """The last row of a file: it may have been measured again."""
    return next((row for row in reversed(rows) if row.is_of(digest)), None)


def check_reference(rows: Sequence[Row], reference_sha: str) -> None:
    """Raises ConfigError unless the reference comes first and last, and moved by at most 5 % throughout."""
    if not (len(rows) > 1 and rows[0].is_of(reference_sha) and rows[-1].is_of(reference_sha)):
        raise ConfigError(f"the results must begin and end with a row of the reference {reference_sha[:12]}, "
                          "so that a drift of the device shows")
    for row in rows[1:]:
        if row.is_of(reference_sha) and (problem := moved(rows[0].latency_ms, row.latency_ms)):
            raise ConfigError(f"results: {problem}; measure again")


def _check_header(path: str | Path, names: Sequence[str]) -> None:
    absent = set(REQUIRED) - set(names)
    strange = set(names) - set(REQUIRED) - set(OPTIONAL)
    if absent or strange:
        raise ConfigError(f"results {path}, line 1: columns {', '.join(names) or 'none'}; "
                          f"required: {', '.join(REQUIRED)}; allowed: {', '.join(OPTIONAL)}")


def _row(where: str, fields: dict[str, str | None]) -> Row:
    digest = (fields["sha256"] or "").strip().lower()
    if not DIGEST.fullmatch(digest):
        raise ConfigError(f"{where}: sha256 {digest!r} is not the first 12 to 64 hexadecimal digits of one")
    if None in fields:  # what csv calls the cells beyond the header
        raise ConfigError(f"{where}: more cells than columns")
    latency_ms = _number(where, "latency_ms", fields)
    if latency_ms is None:
        raise ConfigError(f"{where}: no latency_ms")
    energy_uj, ram_kb = (_number(where, name, fields) for name in OPTIONAL)
    return Row(digest, latency_ms, None if energy_uj is None else energy_uj / 1000,
               None if ram_kb is None else ram_kb * 1024)


def _number(where: str, name: str, fields: dict[str, str | None]) -> float | None:
    """None for an empty cell or an absent column."""
    text = (fields.get(name) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{where}: {name} is {text!r}, it must be a number above 0")
    return value
