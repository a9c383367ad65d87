"""How long a run of 10,000 finished trials takes until it goes on.

`resume.py [TRIALS]` makes such a run, with `scale.py`'s sleepers, which do not sleep. Then, in a process of its own, it
does what depends on the length of a run in `pared resume`: the run file, the study for reading, the study for
writing, what earlier drivers left, and the next trial. Starting Ray and looking at the model come on top.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import write
from scale import Driver, Sleepers, book, build, load, owned, ray, recipes_of, sampler, sleeping

from pared.search.api import keep_config
from pared.search.records import Untouched
from pared.search.run import Run

TRIALS, WORKERS = 10_000, 256


def made(run: Path, trials: int) -> None:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    config = build({"model": "a:b", "search": {"trials": trials, "sampler": "front"}}, {}, "resume")
    run.mkdir()
    keep_config(run, config)
    with owned(run), book.opened(run, config, sampler(recipes_of(), config, WORKERS)) as (study, group):
        book.keep_untouched(study, Untouched("0" * 64, 1000, 0.9, {"host-cpu": 1.0}, 1000))
        Driver(study, recipes_of(), config, sleeping(run), Sleepers(WORKERS, 0.0), lambda _: None, group).loop()
    ray.shutdown()


def copied(run: Path, i: int) -> str:
    """A run that nobody has gone on with."""
    return str(shutil.copytree(run, run.with_name(f"copy{i}")))


def opened(run: Path) -> dict[str, Any]:
    began, parts = time.perf_counter(), {}

    def part(name: str) -> None:
        parts[name] = round(time.perf_counter() - began - sum(parts.values()), 3)

    before = Run(run)
    trials = before.config.search.trials + 10
    config = build(before.config.model_dump(mode="json"), {"search.trials": trials}, "resume")
    part("run file")
    assert before.known and not before.is_over(trials)
    del before
    part("for reading")
    with owned(run), book.opened(run, config, sampler(recipes_of(), config, WORKERS)) as (study, group):
        part("for writing")
        driver = Driver(study, recipes_of(), config, None, None, lambda _: None, group)
        with group(), book.uncollected():
            driver.proposals.remember()
        part("what earlier drivers left")
        with group():
            assert driver.proposals.ahead(1)
        part("next trial")
    return {"parts_s": parts, "seconds": round(sum(parts.values()), 2)}


def main(trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        made(run, trials)
        told = [json.loads(subprocess.run([sys.executable, __file__, "open", copied(run, i)], check=True,
                                          stdout=subprocess.PIPE, text=True).stdout) for i in range(3)]
        write("resume", {"trials": trials, "journal_mb": (run / "journal.log").stat().st_size / 1e6, "runs": told})


if __name__ == "__main__":
    if sys.argv[1:2] == ["open"]:
        load("host-cpu")
        print(json.dumps(opened(Path(sys.argv[2]))))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS)
