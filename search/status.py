"""How a run is doing: a small file the driver keeps fresh, and the journal for the rest."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..evaluators.folder import Folder
from . import mirror
from . import study as book
from .driver import Driver
from .journal import owner
from .lease import holder
from .records import keep
from .run import STATUS, Run
from .workers.meters import Meters

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
    workers: int | None = None
    queues: dict[str, int] = {}
    silent_nodes: list[str] = []
    dashboard: str = ""


class _Copied(BaseModel):
    """What is read of how far the copy in a store is."""

    url: str
    bytes: int
    error: str
    time: float


@contextmanager
def heartbeat(run: Path) -> Iterator[Callable[[Driver], None]]:
    """Writes `status.json` at most once a second while the driver runs."""
    last, meters = 0.0, Meters(run.name)

    def beat(driver: Driver) -> None:
        nonlocal last
        if time.time() - last >= EVERY_S:
            last = time.time()
            keep(run / STATUS, json.dumps(snapshot(driver)))
            meters.show(driver.ended, {"running": len(driver.out), "workers": driver.crew.workers,
                                       "silent_nodes": len(driver.crew.silent),
                                       "driver_busy_share": busy_share(driver)})

    yield beat


def snapshot(driver: Driver) -> dict[str, Any]:
    """What only the driver knows: who is running what, and how it spends its own time."""
    crew, now = driver.crew, time.time()
    notes = crew.notes()
    running = []
    for number, flight in sorted(driver.out.items()):
        note = notes.get(number)
        running.append({
            "trial": number, "recipe": flight.recipe.label, "age_s": round(now - flight.submitted, 1),
            "attempt": flight.attempt, "doing": note.doing if note else "starting",
            "node": note.node if note else "", "pid": note.pid if note else 0})
    return {"pid": os.getpid(), "time": now, "started": driver.started, "running": running,
            "workers": crew.workers, "busy_share": busy_share(driver), "queues": crew.queues(notes),
            "silent_nodes": sorted(crew.silent), "dashboard": crew.dashboard}


def busy_share(driver: Driver) -> float:
    """Share of the driver's time that it did not spend waiting for trials, 0-1."""
    elapsed = max(1e-9, time.time() - driver.started)
    return max(0.0, 1 - driver.waited_s / elapsed)


def left_s(trials: int, rate: float, timeout: float | None, elapsed: float) -> float:
    """Seconds until the trials are used up at `rate` a second, or until no new one may start."""
    by_trials = max(0, trials) / rate
    return by_trials if timeout is None else min(by_trials, max(0.0, timeout - elapsed))


def status(place: str | Path) -> dict[str, Any]:
    """Counts by state, running trials with age and node, trials an hour, ETA; plain JSON.

    Of a run directory, or from any machine by the URL of its copy. Works while a driver runs, and after
    it was killed. Raises RunError: no run there.
    """
    run = mirror.at(place)
    counts, driver = run.counts(), _driver(run)
    live = _live(run.path / STATUS)
    ended = counts.complete + counts.refused + counts.failed
    rate = _per_hour(run)
    search, elapsed = run.config.search, time.time() - (live.started or time.time())
    alive = driver["alive"]
    eta = left_s(search.trials - ended, rate / 3600, search.timeout, elapsed) if rate and alive else None
    return {
        "run": run.place, "driver": driver,
        "counts": asdict(counts), "target": search.trials,
        "running": [each.model_dump() for each in live.running] if alive else [],
        "trials_per_hour": rate, "eta_s": None if eta is None else round(eta),
        "front": len(run.front()) if run.candidates else 0, "saved_share": round(run.saved, 3),
        "busy_share": live.busy_share, "workers": live.workers,
        "queues": live.queues if alive else {}, "silent_nodes": live.silent_nodes if alive else [],
        "dashboard": live.dashboard if alive else "",
        "copy": _copy(run),
    }


def _driver(run: Run) -> dict[str, Any]:
    if run.copy_of:
        found = holder(Folder(run.copy_of))
        return {"alive": found is not None, "pid": found and found.pid, "host": found and found.host}
    pid = owner(run.path)
    return {"alive": pid is not None, "pid": pid, "host": socket.gethostname() if pid else None}


def _copy(run: Run) -> dict[str, Any] | None:
    """How far the copy in its store is; None where there is none, or where it is what is read."""
    try:
        found = _Copied.model_validate_json((run.path / mirror.COPY).read_bytes())
    except (OSError, ValidationError):
        return None
    return {**found.model_dump(), "behind_s": round(time.time() - found.time, 1)}


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
