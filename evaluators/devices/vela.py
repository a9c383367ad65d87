"""Latency from Arm's compiler for the Ethos-U, of the .tflite file that would run there."""

from functools import lru_cache

from ...hardware_profiles import vela
from ...hardware_profiles.backend import Vela
from ...hardware_profiles.profile import HardwareProfile
from ...spaces.subject import Array
from ..tflite import to_tflite
from ._base import Reading


class VelaDevice:
    """Compiles; any worker can, in about a second. A float reference does not run on an Ethos-U."""

    exclusive = False

    def __init__(self, profile: HardwareProfile) -> None:
        assert isinstance(profile.backend, Vela)
        self._backend = profile.backend

    def check(self) -> None:
        """Raises MissingExtraError: Vela is not installed."""
        vela.check(self._backend)

    def read(
        self, file: bytes, reference: bytes, inputs: tuple[Array, ...], attempts: tuple[int, ...]
    ) -> Reading:
        """Raises ExportError: an operator without a counterpart; GateError: too little runs on the NPU."""
        tflite = _converted(file)
        found = vela.compile(tflite, self._backend)
        notes = (f"{', '.join(found.cpu_ops)} run on the CPU, whose time is not in the figure",)
        return Reading(found.latency_ms, None, None, None, memory_bytes=found.sram_bytes,
                       flash_bytes=found.flash_bytes or None, shipped=tflite,
                       notes=notes if found.cpu_ops else ())


@lru_cache(maxsize=4)
def _converted(file: bytes) -> bytes:
    """Several accelerators share one file."""
    return to_tflite(file)
