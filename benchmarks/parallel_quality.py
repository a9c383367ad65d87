"""What parallel search costs in quality: FrontSampler at 1 to 64 simulated workers, at equal evaluations.

On the tables of `tables.py`. Each worker takes 1 +- 0.2 of a unit of time; a proposal is made the moment
one is free, with what was told by then and all others pending. `parallel_quality.py run [SEEDS]` appends to
`results/parallel_quality.jsonl`, one line a search; `report` sums up.
"""

import heapq
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import optuna
from common import RESULTS, write
from search_efficiency import OBJECTIVES, tables

from pared.search.sampler import FrontSampler
from pared.search.suggest import AT_ONCE

LOG = RESULTS / "parallel_quality.jsonl"
WORKERS, CHECKS, LONG, JITTER = (1, 4, 16, 64), (100, 200), 200, 0.2
Case = tuple[str, int, int]  # table, workers, seed


def searched(case: Case) -> dict[str, Any]:
    name, workers, seed = case
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table, dice = tables()[name], np.random.default_rng(seed)

    def cost(params: dict[str, Any]) -> dict[str, float]:
        i = table.find(params)
        latency = table.latency[i] if table.allowed[i] else np.inf
        return {"latency": float(latency), **{each: float(known[i]) for each, known in table.features.items()}}

    study = optuna.create_study(directions=list(OBJECTIVES.values()),
                                sampler=FrontSampler(table.space, OBJECTIVES, cost, seed=seed,
                                                     batch=max(1, workers // AT_ONCE)))
    found: list[int] = []
    out: list[tuple[float, int, optuna.Trial]] = []
    now = 0.0
    for sent in range(LONG):
        if len(out) == workers:
            now, _, trial = heapq.heappop(out)
            found.append(ended(study, table, trial))
        trial = study.ask(dict(table.space))
        heapq.heappush(out, (now + dice.uniform(1 - JITTER, 1 + JITTER), sent, trial))
    found += [ended(study, table, heapq.heappop(out)[2]) for _ in range(len(out))]
    return {"table": name, "workers": workers, "seed": seed, "found": [int(i) for i in found]}


def ended(study: optuna.Study, table: Any, trial: optuna.Trial) -> int:
    i = table.find(trial.params)
    study.tell(trial, [table.accuracy[i], table.latency[i]])
    return int(i)


def run(seeds: int) -> None:
    done = {(row["table"], row["workers"], row["seed"]) for row in logged()}
    left = [case for case in product(tables(), WORKERS, range(seeds)) if case not in done]
    left.sort(key=lambda case: case[2])
    with ProcessPoolExecutor(int(os.environ.get("WORKERS", "2"))) as crew, LOG.open("a") as log:
        for row in crew.map(searched, left):
            print(json.dumps(row), file=log, flush=True)


def logged() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of the hypervolume that one worker has after as many evaluations; mean over seeds, tables."""
    shares: dict[tuple[str, int, int], list[float]] = {}
    for row in rows:
        table = tables()[row["table"]]
        for check in CHECKS:
            share = table.hypervolume(row["found"][:check]) / table.full
            shares.setdefault((row["table"], row["workers"], check), []).append(share)
    mean = {key: float(np.mean(found)) for key, found in shares.items()}
    return {"seeds": len({row["seed"] for row in rows}), "against_one_worker": {
        str(check): {str(workers): _against(mean, workers, check) for workers in WORKERS} for check in CHECKS},
        "hypervolume": {f"{name}, {workers} workers, {check}": value
                        for (name, workers, check), value in sorted(mean.items())}}


def _against(mean: dict[tuple[str, int, int], float], workers: int, check: int) -> dict[str, float]:
    ratios = [mean[name, workers, check] / mean[name, 1, check] for name in tables()
              if (name, workers, check) in mean and (name, 1, check) in mean]
    return {"mean": float(np.mean(ratios)), "worst": min(ratios)} if ratios else {}


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run(int(sys.argv[2]) if len(sys.argv) > 2 else 20)
    else:
        write("parallel_quality", report(logged()))
