"""Extra wall time of scoring every candidate for four devices instead of one: `python benchmarks/profiles.py`.

The same recipes on both sides, one after the other in one process, on the demo's model: what a candidate costs
on `host-cpu` alone, and on `host-cpu`, an Ethos-U, a Jetson and a Pi.
"""

import json
import statistics
import sys
import time
from pathlib import Path

from common import write

import pared
from pared.search import api
from pared.search.config import build
from pared.search.starter import demo

FOUR = ["host-cpu", "ethos-u55-256", "jetson-orin-nano-tensorrt", "rpi4-ort-cpu"]


def main(trials: int, folder: Path) -> None:
    walls = {}
    for name, profiles in (("one", FOUR[:1]), ("four", FOUR)):
        config, base = demo(trials)
        fields = {**config.model_dump(mode="json"), "profiles": profiles}
        fields["search"] |= {"timeout": None, "trials": trials}
        subject = pared.evaluators.subjects.find.find(config.model, base)
        began = time.perf_counter()
        run = api.start(build(fields, {}, "benchmark"), subject, folder / name, base)
        walls[name] = {"wall_s": time.perf_counter() - began, "candidates": len(run.candidates),
                       "trained": run.counts().trained,
                       "trials_s": trial_seconds(run)}
        print(json.dumps(walls[name]), file=sys.stderr)
    one, four = (walls[name] for name in ("one", "four"))
    shared = [(one["trials_s"][r], four["trials_s"][r]) for r in one["trials_s"] if r in four["trials_s"]]
    write("profiles", {
        "profiles": FOUR, "trials": trials, "extra_wall": four["wall_s"] / one["wall_s"] - 1,
        "extra_per_trial": sum(b for _, b in shared) / sum(a for a, _ in shared) - 1,
        "median_trial_ratio": statistics.median(b / a for a, b in shared), "recipes_in_both": len(shared), **walls})


def trial_seconds(run: pared.Run) -> dict[str, float]:
    return {t.user_attrs["digest"]: t.user_attrs["ended"] - t.user_attrs["started"]
            for t in run.trials if "ended" in t.user_attrs}


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
