"""Who drives a run that is kept in a store: a small object there, fresh as long as its driver lives.

On one machine the lock of the run directory decides (`journal.owned`); this is for the others.
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import RunError
from ..evaluators.folder import Folder

NAME = "driver.json"
LOOK_S = 1.0
STALE_S = 60.0  # without a sign of life; the clocks of machines may differ by less than this


@dataclass(frozen=True, slots=True)
class Holder:
    """A driver. `boot` tells machines of one name apart; `token` the drivers of one process."""

    host: str
    boot: str
    pid: int
    token: str
    time: float  # seconds since 1970, of its last sign of life

    @property
    def alive(self) -> bool:
        """One of this machine is dead as soon as its process is."""
        here = (self.host, self.boot) == (socket.gethostname(), _boot())
        return time.time() - self.time < STALE_S and not (here and _gone(self.pid))


def holder(folder: Folder) -> Holder | None:
    """Who drives the run in `folder`; None when nobody does. Raises RunError: out of reach."""
    found = _last(folder)
    return found if found and found.alive else None


class Lease:
    """The right to drive the run in a folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._token = folder, uuid.uuid4().hex

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raises RunError where another driver is alive, or where the folder cannot be written."""
        self._outlive()
        self._write()
        try:
            if not self._is_ours():  # two asked at once
                raise RunError(f"{self._folder.url}: another driver has started at this very moment")
            yield
        finally:
            with suppress(RunError):
                if self._is_ours():
                    self._folder.remove(NAME)

    def renew(self) -> bool:
        """A sign of life; False when another driver has taken over. Raises RunError: out of reach."""
        if not self._is_ours():
            return False
        self._write()
        return True

    def _outlive(self) -> None:
        """Until a driver that was alive lately gives a sign of life, or counts as dead."""
        first = other = holder(self._folder)
        while first and other:
            if (other.token, other.time) != (first.token, first.time):
                raise RunError(f"{self._folder.url} is driven by {other.host}, pid {other.pid}; a driver "
                               f"counts as dead after {STALE_S:.0f} s without a sign of life")
            time.sleep(LOOK_S)
            other = holder(self._folder)

    def _is_ours(self) -> bool:
        """One that is gone is not: another driver took over and has ended."""
        found = _last(self._folder)
        return found is not None and found.token == self._token

    def _write(self) -> None:
        mine = Holder(socket.gethostname(), _boot(), os.getpid(), self._token, time.time())
        self._folder.write(NAME, json.dumps(asdict(mine)).encode())


def _last(folder: Folder) -> Holder | None:
    """Whose the last sign of life is; a damaged one is nobody's."""
    content = folder.read(NAME)
    try:
        return Holder(**json.loads(content)) if content else None
    except (ValueError, TypeError):
        return None


def _boot() -> str:
    """Of this start of this machine; empty where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
