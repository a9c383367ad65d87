"""The command `profile-device`: files for a device, their latencies, the profile that follows."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..errors import ConfigError, ProfileError
from ..evaluators.devices import device
from ..evaluators.devices.results import read_checked
from ..evaluators.probes import Probe, probes
from ..evaluators.profiling import Sample, fitted, imported, measure
from ..evaluators.subjects.find import find
from ..hardware_profiles.load import dump, load
from ..hardware_profiles.predict import predict
from ..hardware_profiles.profile import HardwareProfile


@dataclass(frozen=True)
class Calibrated:
    """What came out: the profile and its file, or (`exported`) files that wait to be measured."""

    samples: list[Sample]
    profile: HardwareProfile | None
    path: Path

    @property
    def plain(self) -> dict[str, Any]:
        fits = self.profile.calibration if self.profile else {}
        return {"path": str(self.path), "measured": [
                    {"name": s.name, "dtype": s.dtype, "latency_ms": s.latency_ms, "problem": s.problem}
                    for s in self.samples],
                "calibration": {dtype: fit.model_dump(mode="json") for dtype, fit in fits.items()}}


def profile_device(
    name: str, model: str | None, out: Path | None, export: Path | None, results: Path | None,
    console: Console,
) -> Calibrated:
    """Raises ProfileError where nothing can be measured, ConfigError for too few measurements."""
    profile = load(name)
    if not (export or results):
        _check_device(profile)
    subject = find(model, Path.cwd()) if model else None
    found = probes(profile, subject)
    if export:
        return Calibrated([], None, _exported(found, export))
    samples = imported(found, read_checked(results)) if results else _measured(profile, found, console)
    made = fitted(profile, samples)
    path = out or Path(f"{made.name}.yaml")
    path.write_text(dump(made))
    return Calibrated(samples, made, path)


def table(made: Calibrated) -> Table:
    """Every file with what was measured and what the fit says, and the error of the fit."""
    if made.profile is None:
        return Table(title=f"files to measure, and a table to fill in, in {made.path}")
    shown = Table(title=f"{made.profile.name}, written to {made.path}", title_justify="left",
                  caption="\n".join(_error(made.profile)), caption_justify="left")
    for column in ("file", "measured, ms", "fitted, ms", "95 % interval"):
        shown.add_column(column, justify="left" if column == "file" else "right")
    for s in made.samples:
        if s.latency_ms is None:
            shown.add_row(s.name, "-", "-", s.problem)
        else:
            fit = predict(s.kernels, made.profile, s.dtype)
            shown.add_row(s.name, f"{s.latency_ms:.3g}", f"{fit.latency_ms:.3g}",
                          f"{fit.low_ms:.3g}..{fit.high_ms:.3g}")
    return shown


def _error(profile: HardwareProfile) -> list[str]:
    return [f"{dtype}: {fit.loo_mape:.0%} off on files left out of the fit ({fit.form}, {fit.models} files)"
            for dtype, fit in profile.calibration.items()]


def _check_device(profile: HardwareProfile) -> None:
    if profile.evidence != "measured" or profile.backend.kind == "table":
        raise ProfileError(
            f"profile {profile.name} has no device: its latencies are {profile.evidence}. Write a profile "
            f"that says how to reach it (extends: {profile.name}, name, backend: {{kind: command, "
            "transport: ssh, host: ...}), or write the files with --export, measure them, and give "
            "the table with --results")


def _measured(profile: HardwareProfile, found: list[Probe], console: Console) -> list[Sample]:
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("measuring", total=len(found))
        return measure(found, device(profile), lambda done, _, name: bar.update(
            task, completed=done, description=name))


def _exported(found: list[Probe], folder: Path) -> Path:
    """The files by their sha256, and a table with the reference first and last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for probe in found:
            (folder / f"{probe.sha256}.onnx").write_bytes(probe.file)
        rows = [probe.sha256 for probe in (*found, found[0])]
        (folder / "results.csv").write_text("sha256,latency_ms\n" + "".join(f"{row},\n" for row in rows))
        names = {probe.sha256: probe.name for probe in found}
        (folder / "names.json").write_text(json.dumps(names, indent=1))
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error}") from error
    return folder
