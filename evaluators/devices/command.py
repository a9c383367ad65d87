"""Measured by a command on a device that takes files: copied, checked, run alone there, checked again."""

import math
import os
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ...errors import ConfigError, MetricError
from ...hardware_profiles.backend import Command
from ...hardware_profiles.profile import HardwareProfile
from ...spaces.subject import Array
from ..lane import Lane
from ..latency import SETTLED
from ..runtimes._base import LEAST_SHARE
from ._base import Reading, interval, moved, outdated
from .answer import Answer, last_object, parse
from .shelf import Shelf, digest
from .transport import REACH_S, TRANSPORTS, Done

SCRIPT = Path(__file__).with_name("on_device.py").read_bytes()
RUNS = 10  # inferences for each pair that is asked for
PATIENCE = 3  # time limits of a command, that a busy device is waited for
HELD, KILLED = 75, (124, 137, 143)  # exit codes: somebody else measures; timeout(1), or a signal
# The kernel frees the lock when the last process that has it open ends: a killed run leaves none behind,
# and a command that outlives its connection still has the device to itself. `flock FD` inside a group
# is the one form that util-linux, busybox and toybox (Android) share. The shell stays (`exit $?`), because
# ssh takes a command that dies of a signal for a lost connection.
ALONE = """lock=$1 who=$2 left=$3 limit=$4; shift 4
( until flock -n 9; do
    left=$((left - 1))
    if [ "$left" -lt 0 ]; then cat "$lock.who" >&2; exit 75; fi
    sleep 1
  done
  echo "$who" >"$lock.who"
  timeout -k 2 "$limit" "$@"
  exit $?
) 9>>"$lock" """
NEEDS = """mkdir -p "$1" && test -w "$1" || echo "a folder $1 to write to"; shift
for tool; do command -v "$tool" >/dev/null || echo "$tool"; done
command -v sha256sum >/dev/null || command -v shasum >/dev/null || echo sha256sum"""


class CommandDevice:
    """One device, which measures for one run at a time."""

    exclusive = True

    def __init__(self, profile: HardwareProfile) -> None:
        assert isinstance(profile.backend, Command)
        self._profile, self._backend = profile, profile.backend
        self._transport = TRANSPORTS[profile.backend.transport](profile.backend)
        self._name = self._transport.name
        self._shelf = Shelf(self._transport, profile.backend.home)

    def check(self) -> None:
        try:
            self._check_tools()
            self._check_provider()
        except MetricError as error:
            raise ConfigError(f"profile {self._profile.name}: {error}") from error

    def read(
        self, file: bytes, reference: bytes, inputs: tuple[Array, ...], attempts: tuple[int, ...]
    ) -> Reading:
        """The command makes its own inputs, of the profile's batch; `inputs` stay here.

        The reference is run before and after the file; once more, when it moved by more than 5 %.
        """
        mine, theirs = self._shelf.place(file), self._shelf.place(reference)
        self._place_script()
        for attempt in range(2):
            runs = RUNS * attempts[min(attempt, len(attempts) - 1)]
            with self._lane():
                before, found, after = (self._measure(path, runs) for path in (theirs, mine, theirs))
            self._shelf.check(mine, theirs)
            problem = moved(before.latency_ms, after.latency_ms)
            if problem is None:
                return self._reading(before.latency_ms, found, after.latency_ms)
        raise MetricError(f"{problem}, twice in a row")

    def _check_tools(self) -> None:
        program = self._filled("", 1)[0]
        absent = self._shelf.shell(NEEDS, self._backend.home, "flock", "timeout", program).out.split("\n")
        if lacking := ", ".join(filter(None, absent)):
            raise MetricError(f"{self._name} lacks {lacking}")

    def _check_provider(self) -> None:
        """Asks the script that comes with pared; another program is not known well enough."""
        if "{script}" not in self._backend.command:
            return
        self._place_script()
        words = self._filled("", 1)[: self._backend.command.index("{script}") + 1]
        done = self._transport.run([*words, "--probe"])
        self._check_ended(done)
        offered = last_object(done.out).get("providers", [])
        if self._profile.runtime.provider not in offered:
            raise MetricError(f"ONNX Runtime on {self._name} offers {', '.join(offered)}, the profile wants "
                              f"{self._profile.runtime.provider}")

    def _place_script(self) -> None:
        if any("{script}" in word for word in self._backend.command):
            self._shelf.place(SCRIPT, ".py")

    def _lane(self) -> AbstractContextManager[None]:
        """A local command shares the machine with the workers."""
        return Lane().quiet() if self._backend.transport == "local" else nullcontext()

    def _measure(self, path: str, runs: int) -> Answer:
        limit = math.ceil(self._backend.timeout_s)
        wait = PATIENCE * limit
        who = f"process {os.getpid()} on {socket.gethostname()}"
        argv = ["sh", "-c", ALONE, "pared", f"{self._backend.home}/lock", who, str(wait), str(limit)]
        done = self._transport.run([*argv, *self._filled(path, runs)], wait + limit + REACH_S)
        if done.code == HELD:
            raise MetricError(f"{self._name} is busy: measuring for {done.told}, and was for {wait} s")
        self._check_ended(done)
        return self._checked(parse(done.out or done.err), path)

    def _check_ended(self, done: Done) -> None:
        if done.code in KILLED:
            raise MetricError(f"the command on {self._name} was killed: it did not end within "
                              f"{self._backend.timeout_s:g} s, or the device ran out of memory")
        if done.code:
            raise MetricError(f"the command on {self._name} failed ({done.code}): {done.told}")

    def _checked(self, answer: Answer, path: str) -> Answer:
        wanted, share = self._profile.runtime.provider, answer.share(self._profile.runtime.provider)
        if answer.sha256 not in (None, digest(path)):
            raise MetricError(f"the file was changed on the way: {self._name} ran {answer.sha256}, "
                              f"not {digest(path)}")
        if share is not None and share < LEAST_SHARE:
            raise MetricError(f"{wanted} ran {share:.0%} of the nodes on {self._name}, at least "
                              f"{LEAST_SHARE:.0%} must; all: {dict(answer.provider_share or {})}")
        return answer

    def _filled(self, path: str, runs: int) -> list[str]:
        """The declared command with its placeholders filled in; other braces stay as they are."""
        settings = self._profile.runtime
        values = {"file": path, "script": self._shelf.path(SCRIPT, ".py"), "runs": runs,
                  "threads": settings.threads, "batch": settings.batch, "provider": settings.provider}
        return [_fill(word, values) for word in self._backend.command]

    def _reading(self, before_ms: float, answer: Answer, after_ms: float) -> Reading:
        spread = math.hypot(answer.spread, after_ms / before_ms - 1)
        low_ms, high_ms = interval(answer.latency_ms, spread)
        return Reading(
            answer.latency_ms, (before_ms + after_ms) / 2, low_ms, high_ms, spread, answer.runs,
            spread <= SETTLED, answer.memory_bytes, answer.flash_bytes, answer.power_mw,
            (*answer.remarks, *self._stale(answer.runtime)), answer.provider_share or {})

    def _stale(self, running: str) -> tuple[str, ...]:
        """A profile is calibrated for one version of the runtime."""
        old = outdated(self._profile.calibration.values(), running)
        return (f"the profile was calibrated for {old}, the device runs {running}: calibrate it again",
                ) if old else ()


def _fill(word: str, values: Mapping[str, object]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", str(value))
    return word
