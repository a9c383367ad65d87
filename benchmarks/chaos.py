"""Two killed drivers and one killed worker during a run of 14 trials, then `resume`: what was lost?"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from common import write

import pared
from pared.search import study as book

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from drivers import ended, ends, started, until, working
from helpers import command, write_run_file

TRIALS = 14


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        first = started("search", write_run_file(Path(folder), search={"trials": TRIALS}), "--out", run)
        until(lambda: ended(run, 2))
        os.kill(until(lambda: working(run))[0]["pid"], signal.SIGKILL)
        until(lambda: ended(run, 4))
        first.kill()
        first.communicate()
        second = started("resume", run)
        until(lambda: ended(run, 8))
        second.kill()
        second.communicate()
        subprocess.run(command("resume", run), check=True, capture_output=True)
        found = pared.open_run(run)
        digests = [t.user_attrs[book.DIGEST] for t in found.trials]
        counts = found.counts()
        write("chaos", {
            "trials": TRIALS, "drivers_killed": 2, "workers_killed": 1,
            "ended": counts.complete + counts.failed + counts.refused,
            "lost": TRIALS - counts.complete - counts.failed - counts.refused,
            "counted_twice": len(digests) - len(set(digests)) + sum(n > 1 for n in ends(run).values()),
            "attempts": [t.user_attrs[book.ATTEMPT] for t in found.trials]})


if __name__ == "__main__":
    main()
