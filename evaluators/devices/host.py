"""Measured on the machine that the code runs on: the worker's, or a node of the cluster."""

from hashlib import sha256
from math import inf

from ...errors import ConfigError
from ...hardware_profiles.profile import HardwareProfile
from ...spaces.subject import Array
from ..lane import Lane
from ..latency import compare
from ..runtimes import named, runtime, timed
from ._base import Reading, interval


class Host:
    """Interleaved with the reference, alone in the machine's lane."""

    exclusive = True

    def __init__(self, profile: HardwareProfile) -> None:
        self._name, self._settings, self._lane = profile.name, profile.runtime, Lane()
        self._here = profile.backend.kind == "host"
        self._best_ms: dict[str, float] = {}  # of each reference, by sha256

    def check(self) -> None:
        """Raises UserError as well: the runtime is unknown or, where it is to run here, not installed."""
        engine = runtime(self._settings.name) if self._here else named(self._settings.name)
        if not timed(self._settings.name):
            raise ConfigError(f"profile {self._name}: runtime {self._settings.name} tells whether a file "
                              "runs, not how fast; give it another backend than host")
        if engine.provider != self._settings.provider:
            raise ConfigError(f"profile {self._name}: runtime {self._settings.name} runs {engine.provider}, "
                              f"the profile says {self._settings.provider}")

    def read(
        self, file: bytes, reference: bytes, inputs: tuple[Array, ...], attempts: tuple[int, ...]
    ) -> Reading:
        name = sha256(reference).hexdigest()
        best_ms = self._best_ms.get(name, inf)
        timing = compare(file, reference, inputs, self._settings, self._lane, attempts, best_ms)
        self._best_ms[name] = min(best_ms, timing.reference_ms)
        # The median of the ratios of pairs is steadier than the ratio of two medians.
        latency_ms = timing.ratio * timing.reference_ms
        low_ms, high_ms = interval(latency_ms, timing.spread)
        return Reading(latency_ms, timing.reference_ms, low_ms, high_ms, timing.spread, timing.pairs,
                       timing.settled, provider_share=timing.provider_share)
