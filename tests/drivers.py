"""Searches in processes of their own, to be watched and killed."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import command

import pared
from pared.search.journal import NAME


def started(*args: object, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*args), stdout=subprocess.DEVNULL, stderr=stderr, text=True)


def until(what: Callable[[], object], seconds: float = 120) -> object:
    end = time.time() + seconds
    while time.time() < end:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def ended(run: Path | str, at_least: int) -> bool:
    try:
        counts = pared.open_run(run).counts()
    except pared.UserError:
        return False
    return counts.complete + counts.failed + counts.refused >= at_least


def live(run: Path) -> dict[str, Any]:
    """What the driver last said of itself."""
    try:
        found: dict[str, Any] = json.loads((run / "status.json").read_text())
    except (OSError, ValueError):
        return {"running": []}
    return found


def working(run: Path) -> list[dict]:
    """Trials that are out, with the pid of their worker known."""
    return [row for row in live(run)["running"] if row["pid"]]


def ends(run: Path) -> Counter[int]:
    """How often each Optuna trial was ended in the journal."""
    lines = (run / NAME).read_text().splitlines()
    logs = [json.loads(line) for line in lines]
    return Counter(log["trial_id"] for log in logs if log["op_code"] == 6 and log["state"] in (1, 2, 3))
