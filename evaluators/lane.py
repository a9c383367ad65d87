"""Right of way on one machine: any number may work, or one may measure alone.

Two locked files in the machine's temporary folder. The kernel frees a lock when its holder dies, so
a killed worker never blocks the lane. Every run on the machine shares the lane.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Lane:
    """Workers share the floor and step aside between batches; a measurement has it alone."""

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"pared-lane-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        self._door, self._floor = folder / "door", folder / "floor"

    @contextmanager
    def working(self) -> Iterator["Turn"]:
        """Held while computing anything that would disturb a measurement."""
        turn = Turn(self)
        turn.enter()
        try:
            yield turn
        finally:
            turn.leave()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Held while measuring: nobody enters, and those inside have left."""
        with _locked(self._door, fcntl.LOCK_EX), _locked(self._floor, fcntl.LOCK_EX):
            yield


class Turn:
    """A worker's place on the floor."""

    def __init__(self, lane: Lane) -> None:
        self._lane, self._fd = lane, -1

    def enter(self) -> None:
        # Through the door one by one, so that a waiting measurement is not starved.
        with _locked(self._lane._door, fcntl.LOCK_EX):
            self._fd = _lock(self._lane._floor, fcntl.LOCK_SH)

    def leave(self) -> None:
        os.close(self._fd)

    def step_aside(self) -> None:
        """Lets a waiting measurement through; call between batches."""
        self.leave()
        self.enter()


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    fd = _lock(path, kind)
    try:
        yield
    finally:
        os.close(fd)


def _lock(path: Path, kind: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, kind)
    return fd
