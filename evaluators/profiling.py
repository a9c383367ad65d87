"""Measurements of probes on a device -> the profile, calibrated, with its error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from ..errors import CandidateError, ConfigError
from ..hardware_profiles import graph
from ..hardware_profiles.backend import Analytic
from ..hardware_profiles.calibrate import calibrate
from ..hardware_profiles.profile import Dtype, HardwareProfile
from .devices import Device
from .devices.results import Row, latest
from .latency import QUICK
from .probes import Probe
from .runtimes import installed

Watch = Callable[[int, int, str], None]  # done, of how many, what is measured now
LEAST = 3  # measurements that a fit needs


@dataclass(frozen=True)
class Sample:
    """The latency of a probe, or why there is none."""

    name: str
    dtype: Dtype
    kernels: tuple[graph.Kernel, ...]
    latency_ms: float | None
    problem: str = ""


def measure(found: Sequence[Probe], device: Device, watch: Watch) -> list[Sample]:
    """One latency a probe, each against the first of its dtype, so that a drift cancels out."""
    device.check()
    references = {probe.dtype: probe.file for probe in reversed(found)}
    raw: list[tuple[Probe, float | None, float, str]] = []
    for done, probe in enumerate(found):
        watch(done, len(found), probe.name)
        try:
            reading = device.read(probe.file, references[probe.dtype], probe.inputs, QUICK)
            raw.append((probe, reading.ratio, reading.reference_ms or 0.0, ""))
        except CandidateError as error:
            raw.append((probe, None, 0.0, str(error)))
    watch(len(found), len(found), "")
    level = {dtype: median([ms for p, ratio, ms, _ in raw if ratio and p.dtype == dtype] or [0.0])
             for dtype in references}
    return [_sample(p, ratio * level[p.dtype] if ratio else None, problem) for p, ratio, _, problem in raw]


def imported(found: Sequence[Probe], rows: Sequence[Row]) -> list[Sample]:
    """The same from figures measured elsewhere."""
    measured = [(probe, latest(rows, probe.sha256)) for probe in found]
    return [_sample(probe, row.latency_ms if row else None, "" if row else "no row for its sha256")
            for probe, row in measured]


def fitted(profile: HardwareProfile, samples: Sequence[Sample]) -> HardwareProfile:
    """A profile that predicts from what was measured: `NAME-calibrated`, an analytic one.

    Raises ConfigError when fewer than three measurements of a number format came back.
    """
    made = profile
    for dtype in dict.fromkeys(sample.dtype for sample in samples):
        good = [(s.kernels, s.latency_ms) for s in samples if s.dtype == dtype and s.latency_ms]
        if len(good) < LEAST:
            problems = "; ".join(f"{s.name}: {s.problem}" for s in samples if s.problem) or "none"
            raise ConfigError(f"{len(good)} measurements in {dtype} on {profile.name}, a fit needs {LEAST}. "
                              f"Problems: {problems}")
        made = calibrate(made, good, dtype)
    # A runtime that runs elsewhere is of a version that is not known here.
    version = installed(profile.runtime.name) if profile.backend.kind == "host" else ""
    stamp = {"date": datetime.now(UTC).date().isoformat(), "runtime_version": version}
    fits = {dtype: fit.model_copy(update=stamp) for dtype, fit in made.calibration.items()}
    return made.model_copy(update={"name": f"{profile.name}-calibrated", "backend": Analytic(),
                                   "title": f"{profile.title}, calibrated", "calibration": fits})


def _sample(probe: Probe, latency_ms: float | None, problem: str) -> Sample:
    return Sample(probe.name, probe.dtype, tuple(graph.read(probe.file)), latency_ms, problem)
