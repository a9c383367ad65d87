"""Ways of getting the latency of a file on a machine, one a file, behind one protocol."""

from collections.abc import Callable

from ...errors import ConfigError, unknown
from ...hardware_profiles.profile import HardwareProfile
from ._base import Device, Reading
from .analytic import AnalyticDevice
from .command import CommandDevice
from .host import Host
from .table import TableDevice
from .vela import VelaDevice

# backend kind of a profile -> class
DEVICES: dict[str, Callable[[HardwareProfile], Device]] = {
    "analytic": AnalyticDevice,
    "command": CommandDevice,
    "host": Host,
    "node": Host,
    "table": TableDevice,
    "vela": VelaDevice,
}
SHIPPED = ("litert", ".tflite")  # the runtime and the suffix of `Reading.shipped`


def device(profile: HardwareProfile) -> Device:
    """The way that the profile's backend names. Nothing is reached yet: that is its `check`."""
    if profile.backend.kind not in DEVICES:
        raise ConfigError(unknown("backend", profile.backend.kind, DEVICES))
    return DEVICES[profile.backend.kind](profile)


__all__ = ["DEVICES", "SHIPPED", "Device", "Reading", "device"]
