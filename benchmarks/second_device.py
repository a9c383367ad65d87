"""What a second device costs, on the table of `recipes.py`: trainings until its hypervolume is at 95 %.

A search of 100 evaluations for the host; then all that it knows is costed anew for the other device, and the
same sampler proposes for that one. One training serves every number format.
`second_device.py [SEEDS]` writes `results/second_device.json`.
"""

import os
import sys
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import optuna
from common import write
from tables import Table, recipes

from pared.search.sampler import FrontSampler

FIRST, OTHERS = "host-cpu", ("rpi4-ort-cpu", "t4-ort-cuda", "ethos-u55-128")
EVALUATIONS, MOST, ENOUGH = 100, 20, 0.95
OBJECTIVES = {"accuracy": "maximize", "latency": "minimize"}


def study(table: Table, seed: int) -> optuna.Study:
    def cost(params: dict[str, Any]) -> dict[str, float]:
        i = table.find(params)
        return {"latency": float(table.latency[i]) if table.allowed[i] else np.inf,
                "size": float(table.features["size_bytes"][i])}

    sampler = FrontSampler(table.space, OBJECTIVES, cost, seed=seed)
    return optuna.create_study(directions=list(OBJECTIVES.values()), sampler=sampler)


def proposed(found: optuna.Study, table: Table) -> dict[str, Any]:
    """The next candidate, told at once."""
    trial = found.ask(dict(table.space))
    i = table.find(trial.params)
    found.tell(trial, [table.accuracy[i], table.latency[i]])
    return trial.params


def variants(params: dict[str, Any], table: Table) -> list[dict[str, Any]]:
    return [{**params, "precision": choice} for choice in table.space["precision"].choices]


def second(known: list[dict[str, Any]], table: Table, seed: int) -> list[float]:
    """Share of the device's hypervolume after 0, 1, 2, ... new trainings."""
    found, points = study(table, seed), [table.find(each) for params in known for each in variants(params, table)]
    for i, params in {table.find(params): params for params in known}.items():
        if table.allowed[i]:
            found.add_trial(optuna.trial.create_trial(
                params=params, distributions=dict(table.space), values=[table.accuracy[i], table.latency[i]]))
    shares, trained = [table.hypervolume(points) / table.full], {table.training(params) for params in known}
    while len(shares) <= MOST and shares[-1] < 1 - 1e-9:
        params = proposed(found, table)
        if table.training(params) not in trained:
            trained.add(table.training(params))
            points += [table.find(each) for each in variants(params, table)]
            shares.append(table.hypervolume(points) / table.full)
    return shares


def figures(seeds: int) -> list[dict[str, Any]]:
    known = []
    for seed in range(seeds):
        first = study(recipes(FIRST), seed)
        known.append([proposed(first, recipes(FIRST)) for _ in range(EVALUATIONS)])
    rows = []
    for device in OTHERS:
        shares = [second(mine, recipes(device), seed) for seed, mine in enumerate(known)]
        needed = [next((n for n, share in enumerate(each) if share >= ENOUGH), MOST + 1) for each in shares]
        rows.append({"device": device, "without_training": float(np.mean([each[0] for each in shares])),
                     "trainings_mean": float(np.mean(needed)), "trainings_most": int(max(needed))})
    return rows


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    write("second_device", {"seeds": seeds, "first": FIRST, "evaluations": EVALUATIONS, "rows": figures(seeds)})
