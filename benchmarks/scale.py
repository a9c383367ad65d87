"""How far one driver keeps up: the product's own loop, study and journal on disk, trials that sleep.

`scale.py [WORKERS TRIAL_S TRIALS SAMPLER]` runs one case, without arguments all of CASES. Workers are slots of
four Ray actors: that shows the driver and Ray, not a thousand processes. Utilisation counts from the first
start to the last end, with the slots that the ragged last wave leaves empty taken out (`until_drain`: up
to the moment when the last trial was sent out). `ms_per_trial` is the driver's own time, by part. `on_paper` says
what that comes to for clusters and runs larger than any that was tried.
"""

import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ray
from common import RESULTS, write

from pared.hardware_profiles.load import load
from pared.search import study as book
from pared.search.config import build
from pared.search.driver import Driver
from pared.search.journal import owned
from pared.search.status import heartbeat
from pared.search.suggest import sampler
from pared.search.trial import Bench, Outcome
from pared.spaces import space
from pared.spaces.passes import Scope
from pared.spaces.recipe import from_json

LOG = RESULTS / "scale.jsonl"
ACTORS, JITTER = 4, 0.2
CASES = [(1, 2.0, 12, "front"), (4, 2.0, 40, "front"), (16, 2.0, 160, "front"), (64, 2.0, 800, "front"),
         (256, 2.0, 3000, "front"), (1000, 2.0, 6000, "front"), (64, 2.0, 800, "tpe"), (1000, 0.0, 6000, "front"),
         (64, 0.5, 10_000, "front")]


@ray.remote(num_cpus=0)
class Slots:
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class Sleepers:
    """Stands for `Crew`: as many trials at a time, which sleep and come back with figures of their own."""

    workers: int
    trial_s: float
    running: dict[Any, tuple[int, Any]] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    dashboard: str = ""
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    free: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        made = Slots.options(max_concurrency=-(-self.workers // ACTORS))
        self.actors = [made.remote() for _ in range(ACTORS)]
        ray.get([actor.sleep.remote(0) for actor in self.actors])
        self.dice = random.Random(0)

    def share(self, value: object) -> object:
        return value

    def submit(self, key: int, function: object, job: Any, *args: object, **options: object) -> None:
        now = time.perf_counter()
        if self.free:
            self.gaps.append(now - self.free.pop(0))
        self.starts.append(now)
        seconds = self.trial_s * self.dice.uniform(1 - JITTER, 1 + JITTER)
        self.running[self.actors[key % ACTORS].sleep.remote(seconds)] = key, job

    def wait(self, timeout_s: float) -> list[tuple[int, Outcome]]:
        if not self.running:
            return []
        refs = list(self.running)
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not done and timeout_s and ray.wait(refs, num_returns=1, timeout=timeout_s)[0]:
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        self.ends += [time.perf_counter()] * len(done)
        self.free += [time.perf_counter()] * len(done)
        ended = [self.running.pop(ref) for ref in done]
        return [(key, outcome(key, job)) for key, job in ended]

    def notes(self) -> dict[int, object]:
        return {}

    def queues(self, notes: object) -> dict[str, int]:
        return {}


def outcome(number: int, job: Any) -> Outcome:
    """A training is done once, as by the real trial."""
    recipe = from_json(job.recipe)
    trained = recipe.prefix.digest.ljust(64, "0")[:64] if recipe.trains and not job.trained else ""
    dice = random.Random(number)
    figure = {"value": dice.uniform(0.1, 2), "unit": "ms", "evidence": "measured", "spread": 0.01, "n": 1,
              "ratio": 1.0, "unstable": False}
    size = {"value": dice.uniform(100, 2000), "unit": "bytes", "evidence": "measured", "spread": 0.0, "n": 1}
    accuracy = {"value": dice.random(), "unit": "fraction", "evidence": "measured", "spread": 0.01, "n": 1}
    return Outcome("complete", sha256=f"{number:064x}", trained=trained,
                   drop={"value": 0, "low": 0, "high": 0, "n": 1}, metrics={"accuracy": accuracy, "size_bytes": size, "memory_bytes": size,
                            "latency_ms@host-cpu": figure})


def recipes_of() -> space.Space:
    """Of a net of eight groups."""
    groups = tuple(f"stage{i}" for i in range(8))
    return space.build(Scope(groups, {"Conv": 0.9, "Gemm": 0.1}, (load("host-cpu"),)), {})


def sleeping(run: Path) -> Bench:
    subject = type("Sleeping", (), {"name": "sleeping"})()
    return Bench(subject, (load("host-cpu"),), str(run / "artifacts"), 1, 0, "", {}, {}, {})


def case(workers: int, trial_s: float, trials: int, who: str) -> dict[str, Any]:
    ray.init(address="local", num_cpus=ACTORS, include_dashboard=False, log_to_driver=False)
    config = build({"model": "a:b", "search": {"trials": trials, "sampler": who}}, {}, "scale")
    recipes = recipes_of()
    with tempfile.TemporaryDirectory() as folder:
        run, crew = Path(folder), Sleepers(workers, trial_s)
        with owned(run), book.opened(run, config, sampler(recipes, config, workers)) as (study, group), \
                heartbeat(run) as beat:
            loop = Driver(study, recipes, config, sleeping(run), crew, beat, group)
            parts = {"ask": clocked(loop.proposals, "_ask"), "tell": clocked(loop, "_tell"),
                     "send": clocked(crew, "submit")}
            began = time.perf_counter()
            loop.loop()
            journal, busy = (run / "journal.log").stat().st_size, time.perf_counter() - began - loop.waited_s
    ray.shutdown()
    spent = {name: sum(times) for name, times in parts.items()}
    spent["write, look and wait for room"] = busy - sum(spent.values())
    per_trial = {name: round(1e3 * seconds / trials, 3) for name, seconds in spent.items()}
    return figures(crew, began, journal) | {"ms_per_trial": per_trial, "workers": workers, "trial_s": trial_s, "sampler": who}


def clocked(owner: Any, name: str) -> list[float]:
    """Where the seconds of each call of that method will be."""
    method, times = getattr(owner, name), []

    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            times.append(time.perf_counter() - began)

    setattr(owner, name, call)
    return times


def figures(crew: Sleepers, began: float, journal: int) -> dict[str, Any]:
    """Until the last trial was sent out, every slot could be busy."""
    until = crew.starts[-1]
    wall, busy = until - crew.starts[0], 0.0
    for start, end in spans(crew):
        busy += max(0.0, min(end, until) - start)
    return {"trials": len(crew.ends), "wall_s": crew.ends[-1] - began, "trials_per_s": len(crew.ends) / (
                crew.ends[-1] - began), "utilisation_until_drain": busy / (wall * crew.workers) if wall else None,
            "finish_to_start_ms": 1e3 * median(crew.gaps) if crew.gaps else None,
            "journal_kb_per_trial": journal / 1e3 / len(crew.ends),
            "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def spans(crew: Sleepers) -> list[tuple[float, float]]:
    """Each slot's time, as long as a trial was to sleep: what Ray adds is idle time as well."""
    dice = random.Random(0)
    return [(start, start + crew.trial_s * dice.uniform(1 - JITTER, 1 + JITTER)) for start in crew.starts]


def on_paper(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Extrapolated from the rows: what the driver can send out, and what a long run leaves behind."""
    fastest = max(row["trials_per_s"] for row in rows)
    short, long = (pick(rows, key=lambda row: row["trials"]) for pick in (min, max))
    kb = 1e3 * (long["driver_mb"] - short["driver_mb"]) / (long["trials"] - short["trials"])
    runs = {f"{trials:,} trials": {"driver_gb": round(short["driver_mb"] / 1e3 + kb * trials / 1e6, 2),
                                   "journal_gb": round(long["journal_kb_per_trial"] * trials / 1e6, 2)}
            for trials in (10_000, 100_000, 1_000_000)}
    shortest = {f"{workers:,} workers": round(workers / fastest / 0.8, 1) for workers in (256, 1000, 10_000)}
    return {"trials_per_s_at_most": fastest, "driver_kb_per_trial": kb, "runs": runs,
            "shortest_trial_s_for_a_utilisation_of_0.8": shortest}


def main() -> None:
    if len(sys.argv) > 1:
        row = case(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
        with LOG.open("a") as log:
            print(json.dumps(row), file=log)
        print(json.dumps(row))
        return
    LOG.unlink(missing_ok=True)
    for each in CASES:  # each in a process of its own, for its memory
        subprocess.run([sys.executable, __file__, *map(str, each)], check=True)
    rows = [json.loads(line) for line in LOG.read_text().splitlines()]
    write("scale", {"cases": rows, "on_paper": on_paper(rows)})


if __name__ == "__main__":
    main()
