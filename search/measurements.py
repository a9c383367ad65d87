"""Figures measured elsewhere join a run: as a profile of its own, never in the column of another."""

from pathlib import Path

from ..errors import RunError
from ..evaluators.devices.results import read_checked
from ..hardware_profiles.backend import Table
from ..hardware_profiles.load import dump as profile_text
from ..hardware_profiles.load import load
from ..hardware_profiles.profile import HardwareProfile
from .api import keep_config
from .config import build
from .journal import owned
from .mirror import mirrored
from .run import Run


def add(folder: Path, results: Path, profile: str) -> Run:
    """The run with a further profile, `PROFILE-measured`, whose latencies come from a CSV.

    Columns: sha256, latency_ms[, energy_uj, ram_kb], in the order of measurement, the same reference
    first and last. Raises ConfigError for a bad row or a reference that moved by more than 5 %,
    RunError when none of the rows is a file of this run.
    """
    run = Run(folder)
    made = _measured(_base(run, profile), results)
    rows = read_checked(results)
    if not any(row.is_of(c.sha256) for c in run.candidates for row in rows):
        raise RunError(f"{results}: none of its {len(rows)} rows is a file of {run.path}; the first column "
                       f"is the sha256 of files in {run.store.url}")
    with owned(run.path), mirrored(run.path, run.config):
        place = run.path / "profiles"
        place.mkdir(exist_ok=True)
        (place / f"{made.name}.csv").write_text(results.read_text())
        (place / f"{made.name}.yaml").write_text(profile_text(made))
        if made.name not in run.config.names:
            named = [*run.config.profiles, str(place / f"{made.name}.yaml")]
            fields = {**run.config.model_dump(mode="json"), "profiles": named}
            keep_config(run.path, build(fields, {}, str(folder)))
    return Run(folder)


def _base(run: Run, profile: str) -> HardwareProfile:
    return run.config.machine(profile) if profile in run.config.names else load(profile)


def _measured(base: HardwareProfile, results: Path) -> HardwareProfile:
    name = f"{base.name.removesuffix('-measured')}-measured"
    return base.model_copy(update={"name": name, "backend": Table(path=f"{name}.csv"),
                                   "title": f"{base.title}, {results.name}"})
