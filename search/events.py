"""What happened in a run, one JSON line each: for people who search a night's trouble, and for programs."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAME = "events.jsonl"
Tell = Callable[..., None]  # tell(event, **plain values)


def nothing(event: str, **what: Any) -> None:
    """For whoever keeps no events."""


@contextmanager
def events(run: Path) -> Iterator[Tell]:
    """Appends to the run's file. That it cannot be written, such as on a full disk, stops nobody: the journal
    is what counts."""
    fd = os.open(run / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def tell(event: str, **what: Any) -> None:
        with suppress(OSError):
            line = json.dumps({"time": round(time.time(), 3), "event": event, **what})
            os.write(fd, f"{line}\n".encode())

    try:
        yield tell
    finally:
        os.close(fd)
