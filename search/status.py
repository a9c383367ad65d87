"""How a run is doing: a small file the driver keeps fresh, and the journal for the rest."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import RunError
from . import study as book
from .driver import Driver
from .journal import owner
from .run import STATUS, Run

EVERY_S = 1.0


class _Running(BaseModel):
    """A trial that is out, as the driver last told."""

    trial: int
    recipe: str
    age_s: float
    attempt: int
    doing: str
    node: str
    pid: int


class _Live(BaseModel):
    """What is read of `status.json`."""

    started: float | None = None
    running: list[_Running] = []
    busy_share: float | None = None


@contextmanager
def heartbeat(run: Path) -> Iterator[Callable[[Driver], None]]:
    """Writes `status.json` at most once a second while the driver runs."""
    last = 0.0

    def beat(driver: Driver) -> None:
        nonlocal last
        if time.time() - last >= EVERY_S:
            last = time.time()
            _write(run / STATUS, snapshot(driver))

    yield beat


def snapshot(driver: Driver) -> dict[str, Any]:
    """What only the driver knows: who is running what, and how it spends its own time."""
    notes, now = driver.crew.notes(), time.time()
    running = []
    for number, flight in sorted(driver.out.items()):
        note = notes.get(number)
        running.append({
            "trial": number, "recipe": flight.recipe.label, "age_s": round(now - flight.submitted, 1),
            "attempt": flight.attempt, "doing": note.doing if note else "starting",
            "node": note.node if note else "", "pid": note.pid if note else 0})
    return {"pid": os.getpid(), "time": now, "started": driver.started, "running": running,
            "workers": driver.crew.workers, "busy_share": busy_share(driver)}


def busy_share(driver: Driver) -> float:
    """Share of the driver's time that it did not spend waiting for trials, 0-1."""
    elapsed = max(1e-9, time.time() - driver.started)
    return max(0.0, 1 - driver.waited_s / elapsed)


def left_s(trials: int, rate: float, timeout: float | None, elapsed: float) -> float:
    """Seconds until the trials are used up at `rate` a second, or until no new one may start."""
    by_trials = max(0, trials) / rate
    return by_trials if timeout is None else min(by_trials, max(0.0, timeout - elapsed))


def status(path: str | Path) -> dict[str, Any]:
    """Counts by state, running trials with age and node, trials an hour, ETA; plain JSON.

    Works while a driver runs, and after it was killed. Raises RunError: no run there.
    """
    run = Run(path)
    counts, pid, live = run.counts(), owner(run.path), _live(run.path / STATUS)
    ended = counts.complete + counts.refused + counts.failed
    rate = _per_hour(run)
    search, elapsed = run.config.search, time.time() - (live.started or time.time())
    eta = left_s(search.trials - ended, rate / 3600, search.timeout, elapsed) if rate and pid else None
    return {
        "run": str(run.path), "driver": {"alive": pid is not None, "pid": pid},
        "counts": asdict(counts), "target": search.trials,
        "running": [each.model_dump() for each in live.running] if pid else [],
        "trials_per_hour": rate, "eta_s": None if eta is None else round(eta),
        "front": len(run.front()) if run.candidates else 0, "saved_share": round(run.saved, 3),
        "busy_share": live.busy_share,
    }


def _live(file: Path) -> _Live:
    """Nothing where the file is missing or damaged: it is only for people, and written again each second."""
    try:
        return _Live.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return _Live()


def _per_hour(run: Run) -> float | None:
    """Over the trials' own starts and ends, so that pauses between drivers do not count."""
    ends = sorted(t.user_attrs[book.ENDED] for t in run.trials if book.ENDED in t.user_attrs)
    starts = [t.user_attrs[book.STARTED] for t in run.trials if book.STARTED in t.user_attrs]
    if len(ends) < 2 or not starts:
        return None
    rate: float = len(ends) / max(1.0, ends[-1] - min(starts)) * 3600
    return round(rate, 1)


def _write(path: Path, plain: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(json.dumps(plain))
        partial.rename(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}") from error
