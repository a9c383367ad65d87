"""What one attempt at a trial said: its stages, what libraries and the user's code print, a traceback."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress

from ..errors import RunError
from ..evaluators.folder import Folder
from .records import Job, Report

LONGEST = 1_000_000  # characters; of more, the end is kept


def name(job: Job) -> str:
    return f"{job.trial:06}-{job.attempt}.txt"


@contextmanager
def kept(url: str, job: Job, report: Report) -> Iterator[Report]:
    """A `report` that writes along: the file is there from the first stage on, for an attempt that is killed.

    It fails no trial. Without a `url` nothing is kept.
    """
    if not url:
        yield report
        return
    text, began, stage = io.StringIO(), time.time(), ""

    def write() -> None:
        with suppress(RunError):
            Folder(url, patient=False).write(name(job), text.getvalue()[-LONGEST:].encode())

    def told(doing: str) -> None:
        nonlocal stage
        report(doing)
        if doing.partition(" ")[0] != stage:  # not every step of a training
            stage = doing.partition(" ")[0]
            print(f"[{time.time() - began:7.1f} s] {doing}", file=text)
            write()

    try:
        with redirect_stdout(text), redirect_stderr(text):
            yield told
    finally:
        write()
