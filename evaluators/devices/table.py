"""Latencies measured elsewhere, found by the sha256 of the file."""

from hashlib import sha256
from pathlib import Path

from ...errors import MetricError
from ...hardware_profiles.backend import Table
from ...hardware_profiles.profile import HardwareProfile
from ...spaces.subject import Array
from ._base import Reading
from .results import Row, check_reference, read_csv


class TableDevice:
    """Looks a figure up; any worker can. A file without a row has no figure on this profile."""

    exclusive = False

    def __init__(self, profile: HardwareProfile) -> None:
        assert isinstance(profile.backend, Table)
        self._path = profile.backend.path

    def check(self) -> None:
        """Raises ConfigError: no such file, a bad row, or a reference that moved."""
        self.rows()

    def rows(self) -> list[Row]:
        """All rows; the first and the last are the reference's, and must agree within 5 %."""
        rows = read_csv(self._path)
        check_reference(rows, rows[0].sha256)
        return rows

    def read(
        self, file: bytes, reference: bytes, inputs: tuple[Array, ...], attempts: tuple[int, ...]
    ) -> Reading:
        """Raises MetricError when the file was not measured."""
        rows = self.rows()
        mine, theirs = (self._row(rows, sha256(content).hexdigest()) for content in (file, reference))
        if mine is None:
            raise MetricError(f"not measured: {Path(self._path).name} has no row for sha256 "
                              f"{sha256(file).hexdigest()[:12]}")
        power = mine.energy_mj / mine.latency_ms * 1e3 if mine.energy_mj else None
        return Reading(mine.latency_ms, theirs.latency_ms if theirs else None, None, None,
                       memory_bytes=mine.ram_bytes, power_mw=power)

    @staticmethod
    def _row(rows: list[Row], digest: str) -> Row | None:
        """The last one counts: a file may have been measured again."""
        return next((row for row in reversed(rows) if row.is_of(digest)), None)
