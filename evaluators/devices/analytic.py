"""Latency predicted from the kernels of the file, on a device that need not be there."""

from functools import lru_cache

from ...errors import GateError
from ...hardware_profiles import graph
from ...hardware_profiles.predict import Prediction, predict
from ...hardware_profiles.profile import HardwareProfile
from ...spaces.subject import Array
from ..runtimes import installed
from ._base import Reading, outdated


class AnalyticDevice:
    """Works a figure out; any worker can, in milliseconds."""

    exclusive = False

    def __init__(self, profile: HardwareProfile) -> None:
        self._profile = profile

    def check(self) -> None:
        """There is nothing to reach."""

    def read(
        self, file: bytes, reference: bytes, inputs: tuple[Array, ...], attempts: tuple[int, ...]
    ) -> Reading:
        """Raises GateError: an operator without a cost, or a number format the device does not run."""
        mine = self._predicted(file)
        try:
            theirs = self._predicted(reference).latency_ms
        except GateError:  # a float reference, on a device that runs int8 alone
            theirs = None
        return Reading(mine.latency_ms, theirs, mine.low_ms, mine.high_ms, notes=self._outdated(file))

    def _outdated(self, file: bytes) -> tuple[str, ...]:
        """Whether the fit is of another version of the runtime than the one that is installed here."""
        fit = self._profile.calibration.get(graph.dtype(_kernels(file)))
        if fit is None:
            return ()
        name = self._profile.runtime.name
        now = installed(name)
        old = outdated([fit], now)
        return (f"{self._profile.name} was calibrated for {name} {old}, installed is {now}; "
                f"calibrate it again with `pared profile-device`",) if old else ()

    def _predicted(self, file: bytes) -> Prediction:
        kernels = _kernels(file)
        dtype = graph.dtype(kernels)
        if dtype not in self._profile.precisions:
            raise GateError(f"the file computes in {dtype}; {self._profile.name} runs "
                            f"{', '.join(self._profile.precisions)} alone")
        return predict(kernels, self._profile, dtype)


@lru_cache(maxsize=16)
def _kernels(file: bytes) -> tuple[graph.Kernel, ...]:
    return tuple(graph.read(file))
