"""How a kind of figure is named wherever people look: table, picture, page."""

from ..evaluators.measurement import Measurement
from ..hardware_profiles.profile import HardwareProfile


def label(profile: HardwareProfile) -> str:
    """measured, compiled, predicted, or predicted, uncalibrated."""
    return profile.evidence + ("" if profile.calibrated else ", uncalibrated")


def between(latency: Measurement) -> str:
    """The 95 % interval in ms; a compiler's cycle count has none."""
    if latency.low is None or latency.high is None:
        return "-"
    return f"{latency.low:.3g}..{latency.high:.3g}"


def speed(latency: Measurement) -> str:
    """Times the speed of the untouched model, where that runs on the device."""
    return f"{1 / latency.ratio:.2f}x" if latency.ratio else "-"


def limit_text(metric: str, limit: float) -> str:
    """A limit in the unit that people read."""
    if metric.startswith("latency"):
        return f"{limit:.4g} ms"
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if limit >= size:
            return f"{limit / size:.4g} {unit}"
    return f"{limit / 1e3:.4g} kB"
