"""What a file costs on each device: everything that is known before its weights are any good."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..errors import CandidateError
from ..evaluators.devices import Reading
from ..evaluators.measurement import Measurement
from ..hardware_profiles.backend import Evidence
from ..hardware_profiles.liveness import activation_peak_bytes
from ..hardware_profiles.profile import HardwareProfile
from ..spaces.subject import Array

# profile, file, reference file, inputs, pairs in a block attempt by attempt
Measure = Callable[[str, bytes, bytes, tuple[Array, ...], tuple[int, ...]], Reading]
Metrics = dict[str, Measurement]


@dataclass(frozen=True)
class Cost:
    """Metrics by name, and per profile what was read there or why nothing was."""

    metrics: Metrics
    readings: Mapping[str, Reading]
    absent: Mapping[str, str]  # profile -> why the file does not run there


def cost(
    file: bytes,
    reference: bytes,
    untouched_ms: Mapping[str, float],
    profiles: tuple[HardwareProfile, ...],
    inputs: tuple[Array, ...],
    measure: Measure,
    attempts: tuple[int, ...],
) -> Cost:
    """Size, memory, latency and, where the power is known, energy, on every profile that runs the file.

    `untouched_ms`: latency of the untouched model, by profile.
    """
    shared: Metrics = {
        "size_bytes": Measurement(len(file), "bytes", "measured"),
        "memory_bytes": Measurement(activation_peak_bytes(file), "bytes", "predicted"),
    }
    return by_profile(shared, untouched_ms, profiles,
                      lambda profile: measure(profile.name, file, reference, inputs, attempts))


def by_profile(
    shared: Metrics,
    untouched_ms: Mapping[str, float],
    profiles: Iterable[HardwareProfile],
    read: Callable[[HardwareProfile], Reading],
) -> Cost:
    """`shared` (at least the size and the peak of activations), and what `read` says on each profile."""
    metrics, readings, absent = dict(shared), {}, {}
    for profile in profiles:
        try:
            reading = read(profile)
        except CandidateError as error:
            absent[profile.name] = str(error)
            continue
        readings[profile.name] = reading
        metrics |= _on(profile, reading, untouched_ms.get(profile.name), shared)
    return Cost(metrics, readings, absent)


def ram_bytes(activations: float, weights: float, profile: HardwareProfile) -> float:
    """RAM a model needs: activations, and weights but on microcontrollers, which run them from flash."""
    return activations if profile.kind == "mcu" else activations + weights


def latency(reading: Reading, untouched_ms: float | None, profile: HardwareProfile) -> Measurement:
    """The ratio times the untouched model's latency: comparable over the whole run."""
    ratio = reading.ratio
    value = ratio * untouched_ms if ratio and untouched_ms else reading.latency_ms
    low, high = (end and end * value / reading.latency_ms for end in (reading.low_ms, reading.high_ms))
    return Measurement(value, "ms", profile.evidence, reading.spread, reading.pairs, ratio,
                       not reading.settled, low, high, profile.calibrated)


def _on(
    profile: HardwareProfile, reading: Reading, untouched_ms: float | None, shared: Metrics
) -> Metrics:
    found = latency(reading, untouched_ms, profile)
    told = profile.evidence if reading.memory_bytes is not None else "predicted"
    size = shared["size_bytes"].value
    ram = reading.memory_bytes or ram_bytes(shared["memory_bytes"].value, size, profile)
    metrics = {f"latency_ms@{profile.name}": found,
               f"memory_bytes@{profile.name}": Measurement(ram, "bytes", told)}
    if profile.memory.flash_limit or reading.flash_bytes:
        flash = reading.flash_bytes or size
        metrics[f"flash_bytes@{profile.name}"] = Measurement(flash, "bytes", told)
    return metrics | _energy(profile, reading, found)


def _energy(profile: HardwareProfile, reading: Reading, latency: Measurement) -> Metrics:
    """Average power times latency, where a source gives that power; else nothing, never zero.

    The power of one board differs by 3 to 7 % between models (MLPerf Tiny v1.2: ad, ic, kws, vww). A
    power derived from a board's limit says nothing of one model and gives no energy.
    """
    declared = profile.active_power
    known = declared.base if declared and declared.basis in ("measured", "vendor") else None
    power = reading.power_mw or known
    if power is None:
        return {}
    measured = reading.power_mw and profile.evidence == "measured"
    evidence: Evidence = "measured" if measured else "predicted"
    return {f"energy_mj@{profile.name}": Measurement(power * latency.value / 1e3, "mJ", evidence)}
