"""Figures of a finished demo run: `python benchmarks/demo.py pared-demo`."""

import sys
from dataclasses import asdict

from common import write

import pared
from pared.search import study as book


def main(folder: str) -> None:
    run = pared.open_run(folder)
    picked = run.pick(max_drop=0.01)
    outcomes = [t.user_attrs[book.OUTCOME] for t in run.trials]
    times = [t.user_attrs[key] for t in run.trials for key in (book.STARTED, book.ENDED)]
    spreads = sorted(c.latency("host-cpu").spread for c in run.candidates)
    checks = run.verify()
    latency = picked.latency("host-cpu")
    write("demo", {
        "pick": {"recipe": picked.recipe.label, "speed_up": 1 / (latency.ratio or 1), "spread": latency.spread,
                 "lost_validation": asdict(picked.drop),
                 "lost_test": asdict(picked.test_drop) if picked.test_drop else None},
        "counts": asdict(run.counts()), "front_points": len(run.front()),
        "trials_wall_s": max(times) - min(times),
        "spread_at_9_of_10": spreads[int(0.9 * len(spreads))],
        "share_within_2_percent": sum(s <= 0.02 for s in spreads) / len(spreads),
        "train_s_over_budget": sum(o["train_s"] for o in outcomes if o["broken"]),
        "verified": sum(not c.problem for c in checks), "checked": len(checks),
        "front": [c.to_json() for c in run.front()], "checks": [asdict(c) for c in checks],
    })


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "pared-demo")
