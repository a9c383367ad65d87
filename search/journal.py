"""The single-writer journal: one live driver, no torn tail, durable when a trial ends.

A normal Optuna journal, so `optuna.load_study` and the dashboard read it.
"""

import fcntl
import json
import os
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from sys import intern
from time import sleep
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, _storage
from optuna.trial import FrozenTrial, TrialState

from ..errors import RunError
from .compaction import STATE, Record, compacted, created_in

NAME = "journal.log"
# Optuna reads the distribution of every parameter of every trial anew: half the time of opening a long run.
_storage.json_to_distribution = cache(json_to_distribution)  # type: ignore[attr-defined]


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


def _shared(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names and words are the same strings in all records: a long run repeats them."""
    return {intern(name): intern(value) if type(value) is str else value for name, value in pairs}


_DECODE = json.JSONDecoder(object_pairs_hook=_shared).decode


class SingleWriterJournal(JournalFileBackend):
    """Appends in one write, syncs to disk when a trial ends. Use only while the run is `owned`.

    What it appends it need not read again: it is the only writer.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        for stale in path.parent.glob(f"{path.name}.lock*"):
            stale.unlink()
        drop_torn_tail(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._fresh: list[str] | None = None  # lines since the last reading; None: all are on the disk alone
        self._waiting: list[Record] = []  # those that are not written yet
        self._created, self._grouped = 0, False

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Raises RunError when the disk takes only part of it; what was written before stays good."""
        self._waiting += logs
        if self._fresh is not None:
            self._fresh += map(json.dumps, logs)
        if not self._grouped:
            self._write()

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """From the disk the first time; from then on what was appended since the last time."""
        if self._fresh is None:
            for record in super().read_logs(log_number_from):
                self._created += created_in([record])
                yield record
            self._fresh = []
            return
        fresh, self._fresh = self._fresh, []
        yield from map(_DECODE, fresh)

    @contextmanager
    def group(self) -> Iterator[None]:
        """What is appended within reaches the disk together at the end. Not to be nested."""
        self._grouped = True
        try:
            yield
        finally:
            self._grouped = False
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        records = compacted(self._waiting, self._created)
        self._created += created_in(records)
        self._waiting = []
        content = "".join(f"{json.dumps(each, separators=(',', ':'))}\n" for each in records).encode()
        end = os.fstat(self._fd).st_size
        try:
            written = os.write(self._fd, content)
            if written < len(content):
                raise OSError(f"wrote {written} of {len(content)} bytes")
            if any(each["op_code"] == STATE for each in records):
                os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, end)
            raise RunError(f"cannot write the journal {self._file_path}: {error}; free some space, "
                           "then `pared resume` goes on from here") from error

    def close(self) -> None:
        os.close(self._fd)


class Storage(JournalStorage):
    """In a journal; knows which trials wait, so that asking does not look through all."""

    def __init__(self, journal: SingleWriterJournal) -> None:
        super().__init__(journal)
        every, waiting = super().get_all_trials, (TrialState.WAITING,)
        self._waiting = {trial._trial_id for study in self.get_all_studies()
                         for trial in every(study._study_id, deepcopy=False, states=waiting)}

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        made = super().create_new_trial(study_id, template_trial)
        if template_trial is not None and template_trial.state == TrialState.WAITING:
            self._waiting.add(made)
        return made

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        self._waiting.discard(trial_id)
        return super().set_trial_state_values(trial_id, state, values)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states == (TrialState.WAITING,):
            return [self.get_trial(trial_id) for trial_id in sorted(self._waiting)]
        return super().get_all_trials(study_id, deepcopy, states)


def drop_torn_tail(path: Path) -> None:
    """Cuts what a killed driver left of its last line: Optuna could never read past it again."""
    with path.open("rb+") as file:
        content = file.read()
        if (kept := len(whole(content))) < len(content):
            file.truncate(kept)


def whole(lines: bytes) -> bytes:
    """Without the last one where it is not written to its end."""
    return lines[: lines.rfind(b"\n") + 1]
