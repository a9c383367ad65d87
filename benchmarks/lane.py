"""The latency of one file, on a quiet machine and while every core trains.

`lane.py [ROUNDS]`. In each round the int8 file of a small residual net is read three times, as a trial reads it:
with nothing else running; beside trainings that stand aside as those of pared do; beside as many that do not, which
stand for another user of the machine. A reading is at most 3 % off the quiet ones, or says `unstable`.
"""

import multiprocessing
import os
import sys
import time
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from common import write
from host_latency import _exported, _images
from nets import resnet8
from torch import nn

from pared.evaluators import latency
from pared.evaluators.devices import Reading, device
from pared.evaluators.lane import Lane
from pared.hardware_profiles.load import load

ROUNDS, ALLOWED, PIXELS, BATCH = 40, 0.03, 32, 8
NEIGHBOURS = ("none", "training that stands aside", "training of a stranger")


def train(neighbour: Any, me: str) -> None:
    """Steps of a small net whenever it is `me` who trains."""
    torch.set_num_threads(1)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.LazyLinear(10))
    images = torch.rand(32, 3, 32, 32)
    while True:
        while NEIGHBOURS[neighbour.value] != me:
            time.sleep(0.01)
        if me == NEIGHBOURS[2]:
            net(images).sum().backward()
            continue
        with Lane().working() as turn:
            while NEIGHBOURS[neighbour.value] == me:
                net(images).sum().backward()
                turn.step_aside()


def main(rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    neighbour = context.Value("i", 0)
    for me in NEIGHBOURS[1:] * (os.cpu_count() or 1):
        context.Process(target=train, args=(neighbour, me), daemon=True).start()
    file, reference = files()
    host, rows = device(load("host-cpu")), []
    time.sleep(15)  # the neighbours import torch
    for _ in range(rounds):
        readings = {}
        for i, name in enumerate(NEIGHBOURS):
            neighbour.value = i
            time.sleep(0.3)
            readings[name] = told(host.read(file, reference, (_images(BATCH, PIXELS),), latency.QUICK))
        rows.append(readings)
        neighbour.value = 0
    write("lane", {"rounds": rounds, "file": "resnet8 int8, batch 1", **{
        name: summary(rows, name) for name in NEIGHBOURS}, "rows": rows})


def files() -> tuple[bytes, bytes]:
    """The int8 file and the float one."""
    torch.manual_seed(0)
    untouched, int8 = _exported(resnet8, PIXELS)
    return int8.SerializeToString(), untouched.SerializeToString()


def told(reading: Reading) -> dict[str, Any]:
    return {"latency_ms": reading.latency_ms, "ratio": reading.latency_ms / reading.reference_ms,
            "spread": reading.spread, "unstable": not reading.settled}


def summary(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Differences of what a search compares, the ratio to the untouched file, from the quiet one.

    That is the median of the quiet readings that settled: a neighbour below the hypervisor disturbs some of them.
    """
    quiet = median(row["none"]["ratio"] for row in rows if not row["none"]["unstable"])
    off = [abs(row[name]["ratio"] / quiet - 1) for row in rows]
    loud = [row[name]["unstable"] for row in rows]
    silent = [o for o, flagged in zip(off, loud, strict=True) if not flagged]
    return {"difference_median": median(off), "difference_largest_unflagged": max(silent, default=None),
            "flagged": sum(loud),
            "beyond_3_percent_unflagged": sum(o > ALLOWED for o in silent)}


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
