"""The single-writer journal: one live driver, no torn tail, durable when a trial ends.

A normal Optuna journal, so `optuna.load_study` and the dashboard read it.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Any

from optuna.storages.journal import JournalFileBackend

from ..errors import RunError

NAME = "journal.log"
TRIAL_ENDS = 6  # Optuna's op_code SET_TRIAL_STATE_VALUES


@contextmanager
def owned(run: Path) -> Iterator[None]:
    """Holds the run directory for one driver. Raises RunError naming the live driver's pid.

    The kernel frees the lock when the driver dies, however it dies. Needs a local or flock-capable
    file system.
    """
    fd = os.open(run / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _seized(fd):
            raise RunError(f"{run} is owned by a live driver, pid {_pid(fd) or 'unknown'}")
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)


def owner(run: Path) -> int | None:
    """The pid of the live driver, or None."""
    try:
        fd = os.open(run / "owner", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid(fd)
    finally:
        os.close(fd)
    return None


def _pid(fd: int) -> int | None:
    """What an owner wrote of itself."""
    text = os.pread(fd, 32, 0)
    return int(text) if text.isdigit() else None


def _seized(fd: int) -> bool:
    for _ in range(10):  # whoever asks for the owner holds the lock for an instant
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            sleep(0.02)
    return False


class SingleWriterJournal(JournalFileBackend):
    """Appends in one write, syncs to disk when a trial ends. Use only while the run is `owned`."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        for stale in path.parent.glob(f"{path.name}.lock*"):
            stale.unlink()
        drop_torn_tail(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Raises RunError when the disk takes only part of it; what was written before stays good."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        end = os.fstat(self._fd).st_size
        try:
            written = os.write(self._fd, lines)
            if written < len(lines):
                raise OSError(f"wrote {written} of {len(lines)} bytes")
            if any(log.get("op_code") == TRIAL_ENDS for log in logs):
                os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, end)
            raise RunError(f"cannot write the journal {self._file_path}: {error}; free some space, "
                           "then `pared resume` goes on from here") from error

    def close(self) -> None:
        os.close(self._fd)


def drop_torn_tail(path: Path) -> None:
    """Cuts what a killed driver left of its last line: Optuna could never read past it again."""
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
