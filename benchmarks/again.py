"""How long from a fault until the trial is sent out again, and until a worker has it, on a machine with nothing else to do.

`again.py [ROUNDS]`: trainings that never end on two of three nodes; a worker killed, a node killed, a node frozen, in
turn. `running` comes from the status of the run, which is written once a second. See `chaos.py` for a busy machine.
"""

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from common import write

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
os.environ.update(RAY_AUTH_MODE="disabled", OMP_NUM_THREADS="1")
from clusters import events, family, nodes, raylets, workers_of
from drivers import started, until, working
from helpers import ALONE, TINY, write_run_file

ROUNDS = 5


def fault(kind: str, cluster: Any, run: Path) -> tuple[float, float]:
    """Seconds until the trial that it hits is sent out again, and until it runs."""
    raylet, row = until(lambda: victim(cluster, run, kind == "worker"))
    began = time.time()
    if kind == "worker":
        psutil.Process(row["pid"]).kill()
    elif kind == "node":
        raylet.kill()
    else:
        stopped = family(raylet)
        for process in stopped:
            process.suspend()
    sent = until(lambda: next((e["time"] for e in events(run, "started")
                               if e["trial"] == row["trial"] and e["time"] > began), None))
    until(lambda: any(r["trial"] == row["trial"] and r["pid"] != row["pid"] for r in working(run)))
    took = sent - began, time.time() - began
    if kind == "frozen node":
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    if kind != "worker":
        cluster.add_node(num_cpus=1)
    time.sleep(15)  # the new node, and whoever starts there
    return took


def victim(cluster: Any, run: Path, anywhere: bool) -> tuple[psutil.Process, dict[str, Any]] | None:
    """A training, with the node beside the head that it is on."""
    rows = {row["pid"]: row for row in working(run) if row["doing"].startswith("training")}
    if anywhere and rows:
        return psutil.Process(), next(iter(rows.values()))
    for raylet in raylets(cluster):
        for pid in workers_of(raylet) & rows.keys():
            return raylet, rows[pid]
    return None


def main(rounds: int) -> None:
    found: dict[str, list[tuple[float, float]]] = {"worker": [], "node": [], "frozen node": []}
    with tempfile.TemporaryDirectory() as folder, nodes(1, 1, 1) as cluster:
        run = Path(folder) / "run"
        run_file = write_run_file(
            Path(folder), model=f"{TINY.parent}/slow.py:subject", search={"trials": 30, "max_attempts": 100},
            cluster={**ALONE, "workers": 2, "address": cluster.address})
        driver = started("search", run_file, "--out", run, stderr=None)
        for kind in list(found) * rounds:
            found[kind].append(fault(kind, cluster, run))
            print(kind, found[kind][-1], flush=True)
        driver.kill()
    write("again", {"rounds": rounds, "sent_s": {kind: [round(s, 2) for s, _ in took] for kind, took in found.items()},
                    "running_s": {kind: [round(r, 2) for _, r in took] for kind, took in found.items()},
                    "median": {kind: [round(median(each), 2) for each in zip(*took, strict=True)]
                               for kind, took in found.items()}})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
