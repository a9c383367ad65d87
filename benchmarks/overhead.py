"""Share of the driver's wall time that is not waiting: real driver, journal and Ray, sleeping trials."""

import tempfile
import time
from pathlib import Path

from common import write

from pared.hardware_profiles.load import load
from pared.search import driver as engine
from pared.search import study as book
from pared.search.config import build
from pared.search.journal import owned
from pared.search.status import busy_share, heartbeat
from pared.search.suggest import sampler
from pared.search.trial import Bench, Job, Outcome
from pared.search.workers import crew
from pared.spaces import space
from pared.spaces.passes import Scope

TRIAL_S, TRIALS, WORKERS = 20.0, 14, 2


def sleeping(job: Job, bench: Bench, measure: object, report: object) -> Outcome:
    time.sleep(TRIAL_S)
    figure = {"value": 1.0 + job.trial / 100, "unit": "ms", "evidence": "measured", "spread": 0.01, "n": 1,
              "ratio": 1.0, "unstable": False}
    size = {"value": 1000.0, "unit": "bytes", "evidence": "measured", "spread": 0.0, "n": 1}
    accuracy = {"value": 0.9, "unit": "fraction", "evidence": "measured", "spread": 0.01, "n": 1}
    return Outcome("complete", sha256=f"{job.trial:064x}", drop={"value": 0, "low": 0, "high": 0, "n": 1},
                   metrics={"accuracy": accuracy, "size_bytes": size, "latency_ms@host-cpu": figure})


def main() -> None:
    engine.run = sleeping  # everything else is the product's own
    profiles = (load("host-cpu"),)
    config = build({"model": "a:b", "search": {"trials": TRIALS}}, {}, "overhead")
    scope = Scope(("stage1", "stage2", "stage3"), {"Conv": 0.9, "Gemm": 0.1}, profiles)
    with tempfile.TemporaryDirectory() as folder, crew("local", WORKERS, 1, profiles) as workers:
        run = Path(folder)
        bench = Bench(type("S", (), {"name": "sleeping"})(), profiles, str(run / "artifacts"), 1, 0, "", {}, {}, {})
        recipes = space.build(scope, {})
        with owned(run), book.opened(run, config, sampler(recipes, config)) as (study, _), heartbeat(run) as beat:
            loop = engine.Driver(study, recipes, config, bench, workers, beat)
            began = time.time()
            loop.loop()
            write("overhead", {"trial_s": TRIAL_S, "workers": WORKERS, "trials": TRIALS,
                               "wall_s": time.time() - began, "ideal_s": TRIAL_S * TRIALS / WORKERS,
                               "not_waiting_share": busy_share(loop)})


if __name__ == "__main__":
    main()
