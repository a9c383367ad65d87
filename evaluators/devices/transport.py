"""How a command reaches a device and comes back: here, over ssh, over adb.

No shell line is ever built from pieces: what a device runs is an argument list, quoted once for the
remote shell that ssh and adb put in between.
"""

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO

from ...errors import MetricError
from ...hardware_profiles.backend import Command

REACH_S = 60.0  # for anything but the measurement itself
# Never asks, never accepts an unknown host key: those are the defaults of ssh, with nobody to ask.
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10")
RECEIVE = 'umask 077 && mkdir -p "${1%/*}" && cat >"$1"'


@dataclass(frozen=True, slots=True)
class Done:
    """A finished command: exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """The end of what it said about a failure."""
        return " ".join((self.err.strip() or self.out.strip() or "no output").split())[-300:]


class Transport:
    """This machine. Over a wire: `_argv` puts the way there in front, `_unreachable` knows its failures."""

    def __init__(self, backend: Command) -> None:
        self._backend = backend

    @property
    def name(self) -> str:
        """What to call the device in a message."""
        return self._backend.host or ("this machine" if self._backend.transport == "local" else "the device")

    def run(self, argv: Sequence[str], timeout_s: float = REACH_S, feed: bytes = b"") -> Done:
        """Raises MetricError: unreachable, or no end within `timeout_s` (then it is killed)."""
        done = _run(self._argv(argv), timeout_s, feed, self.name)
        if problem := self._unreachable(done):
            raise MetricError(f"cannot reach {self.name}: {problem}")
        return done

    def push(self, content: bytes, path: str) -> None:
        """Writes a file on the device. Raises MetricError."""
        done = self.run(["sh", "-c", RECEIVE, "pared", path], self._backend.timeout_s + REACH_S, content)
        self._require(done, path)

    def _require(self, done: Done, path: str) -> None:
        if done.code:
            raise MetricError(f"cannot copy to {path} on {self.name}: {done.told}")

    def _argv(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def _unreachable(self, done: Done) -> str | None:
        return None


class Ssh(Transport):
    """Needs nothing on the device but a shell: no sftp, no agent."""

    def _argv(self, argv: Sequence[str]) -> list[str]:
        port = ["-p", str(self._backend.port)] if self._backend.port else []
        assert self._backend.host is not None
        return [*SSH, *port, *self._backend.options, self._backend.host, shlex.join(argv)]

    def _unreachable(self, done: Done) -> str | None:
        return done.told if done.code == 255 else None


class Adb(Transport):
    """An Android device by its serial number, or the only one there is."""

    def push(self, content: bytes, path: str) -> None:
        self._require(self.run(["mkdir", "-p", path.rsplit("/", 1)[0]]), path)
        with NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            argv = [*self._adb(), "push", file.name, path]
            self._require(_run(argv, self._backend.timeout_s + REACH_S, b"", self.name), path)

    def _adb(self) -> list[str]:
        serial = ["-s", self._backend.host] if self._backend.host else []
        port = ["-P", str(self._backend.port)] if self._backend.port else []
        return ["adb", *port, *serial, *self._backend.options]

    def _argv(self, argv: Sequence[str]) -> list[str]:
        return [*self._adb(), "shell", shlex.join(argv)]

    def _unreachable(self, done: Done) -> str | None:
        return done.told if done.code and done.err.startswith(("adb:", "error:")) else None


TRANSPORTS: dict[str, type[Transport]] = {"local": Transport, "ssh": Ssh, "adb": Adb}


def _run(argv: Sequence[str], timeout_s: float, feed: bytes, name: str) -> Done:
    """Output goes to files, so that a stray child that keeps a pipe open cannot hold us up."""
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(feed)
        given.seek(0)
        try:
            child = subprocess.Popen(argv, stdin=given, stdout=out, stderr=err, start_new_session=True)
        except OSError as error:
            raise MetricError(f"cannot run {argv[0]}: {error}") from error
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise MetricError(f"no answer from {name} within {timeout_s:g} s") from None
        finally:
            _end(child)
        return Done(code, _text(out), _text(err))


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Whatever happened, an interrupt included, the child does not outlive the call."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
