"""A search of 200 trials on four nodes while things break: what is lost, what is counted twice, how long it takes.

Every few seconds one of: a worker killed, a node killed (and another one joins), a node frozen (and thawed later),
the driver killed (and the run resumed). A trial takes some seconds. `chaos.py [TRIALS [PROFILE]]` keeps the figures in
`results/chaos.json`; with `host-cpu` each trial is measured as well, one at a time: `results/chaos_measured.json`.
"""

import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from common import write

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
os.environ.update(RAY_AUTH_MODE="disabled", OMP_NUM_THREADS="1")
from clusters import events, family, nodes, on, pids, raylets, workers_of
from drivers import ends, live, started, until, working
from helpers import ALONE, PATIENT, write_run_file

import pared
from pared.hardware_profiles.load import load

TRIALS, DRIVERS, PAUSE_S, THAW_S = 200, 5, 4.0, 40.0


class Chaos:
    """What is broken when; `done` counts the faults that hit a running trial."""

    def __init__(self, cluster: Any, run: Path, trials: int) -> None:
        self.cluster, self.run, self.trials = cluster, run, trials
        self.dice, self.done = random.Random(0), Counter[str]()
        self.hits: list[tuple[str, float, set[int]]] = []  # kind, when, trials that it hit
        self.frozen: list[tuple[float, list[psutil.Process]]] = []
        self.driver: Any = None

    def go(self) -> None:
        marks = [self.trials * (n + 1) // (DRIVERS + 1) for n in range(DRIVERS)]
        while self.driver.poll() is None:
            time.sleep(PAUSE_S)
            self._thaw()
            ended = len(events(self.run, "ended"))
            if marks and ended >= marks[0]:
                marks.pop(0)
                self._driver()
            elif ended < self.trials - 8:
                self.dice.choice((self._worker, self._worker, self._node, self._freeze))()
        self._thaw(everyone=True)

    def _driver(self) -> None:
        self._note("driver", set(self._running()))
        self.driver.kill()
        self.driver.wait()
        self.driver = started("resume", self.run, "--address", self.cluster.address)

    def _worker(self) -> None:
        rows = working(self.run)
        if rows and psutil.pid_exists((row := self.dice.choice(rows))["pid"]):
            self._note("worker", {row["trial"]})
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(row["pid"]).kill()

    def _node(self) -> None:
        victim = self._victim()
        if victim:
            self._note("node", self._on(victim))
            victim.kill()
            self.cluster.add_node(num_cpus=1)

    def _freeze(self) -> None:
        victim = self._victim()
        if victim and not self.frozen:
            self._note("frozen node", self._on(victim))
            processes = family(victim)
            for process in processes:
                process.suspend()
            self.frozen.append((time.time() + THAW_S, processes))

    def _thaw(self, everyone: bool = False) -> None:
        for due, processes in list(self.frozen):
            if everyone or time.time() > due:
                self.frozen.remove((due, processes))
                for process in processes:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.resume()

    def _victim(self) -> psutil.Process | None:
        alive = [raylet for raylet in raylets(self.cluster) if raylet.is_running() and on(raylet, self.run)
                 and raylet.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)]
        return self.dice.choice(alive) if alive else None

    def _running(self) -> dict[int, int]:
        return {row["trial"]: row["pid"] for row in live(self.run)["running"]}

    def _on(self, raylet: psutil.Process) -> set[int]:
        here = workers_of(raylet)
        return {trial for trial, pid in self._running().items() if pid in here}

    def _note(self, kind: str, trials: set[int]) -> None:
        self.done[kind] += 1
        self.hits.append((kind, time.time(), trials))


def again_s(chaos: Chaos) -> dict[str, dict[str, list[float]]]:
    """Kind of fault -> seconds until each trial that it hit was `sent` out again, and until it was `running`.

    Running means that a worker, with all that it has to import, has taken it up; told where the next thing that
    happened to the trial was its end.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for kind, when, trials in chaos.hits:
        for trial in trials:
            later = [e for e in events(chaos.run) if e.get("trial") == trial and e["time"] > when]
            told = [e for e in later if e["event"] in ("started", "ended")]
            if not told or told[0]["event"] == "ended":
                continue  # it was over before the fault reached it
            took = found.setdefault(kind, {"sent": [], "running": []})
            took["sent"].append(round(told[0]["time"] - when, 2))
            if [e["event"] for e in told[:2]] == ["started", "ended"] and told[1].get("began"):
                took["running"].append(round(told[1]["began"] - when, 2))
    return found


def main(trials: int, profile: str) -> None:
    with tempfile.TemporaryDirectory() as folder, nodes(1, 1, 1, 1) as cluster:
        run = Path(folder) / "run"
        run_file = write_run_file(
            Path(folder), model=f"{PATIENT}:subject", profiles=[profile],
            search={"trials": trials, "max_attempts": 20},  # no trial is to blame for what is done to it here
            space={"recover": {"epochs": 1}, "int8_nncf": False, "qat": False, "sparsify": False},
            cluster={**ALONE, "workers": None, "address": cluster.address})
        chaos, began = Chaos(cluster, run, trials), time.time()
        chaos.driver = started("search", run_file, "--out", run)
        until(lambda: pids(run))
        chaos.go()
        found = pared.open_run(run)
        counts = found.counts()
        reasons = Counter(e["kind"] for e in events(run, "fault"))
        again = again_s(chaos)
        write("chaos_measured" if load(profile).evidence == "measured" else "chaos", {
            "profile": profile, "trials": trials, "nodes": 4, "faults": dict(chaos.done), "driver_exit": chaos.driver.returncode,
            "ended": counts.complete + counts.failed + counts.refused, "complete": counts.complete,
            "failed": [t.user_attrs["outcome"]["reason"] for t in found.trials if t.state.name == "FAIL"],
            "lost": trials - counts.complete - counts.failed - counts.refused,
            "counted_twice": sum(n > 1 for n in ends(run).values()),
            "told_of_faults": dict(reasons), "wall_s": time.time() - began, "again_s": again,
            "again_s_median": {kind: {what: median(times) for what, times in took.items() if times}
                               for kind, took in again.items()}})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS, sys.argv[2] if len(sys.argv) > 2 else "rpi4-ort-cpu")
