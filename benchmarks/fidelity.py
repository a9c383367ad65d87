"""Epochs to the same hypervolume, with successive halving and without, on the table of `recipes.py`.

One training serves every number format. Without: each proposal is trained for 9 epochs. With: for 1 epoch,
and the best go on to 3 and to 9. Both ask FrontSampler, and see what a training came to in every format once
it is past its first rung. `fidelity.py [SEEDS]` writes `results/fidelity.json`.
"""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import optuna
from common import write
from optuna.distributions import IntDistribution
from search_efficiency_report import reaching
from tables import WORST, recipes

from pared.search.front import hypervolume
from pared.search.halving import Halving
from pared.search.sampler import Exhausted, FrontSampler

RUNGS = (1, 3, 9)
LONG = {1: 460, 3: 320}  # epochs that a search may train, by its number of rungs
EPOCHS, OBJECTIVES = "epochs", {"accuracy": "maximize", "latency": "minimize"}
TARGETS = (90, 180, 270, 450)  # epochs without halving, whose hypervolume is to be reached
WITHIN = 0.01
TABLES = {epochs: recipes(epochs=epochs) for epochs in RUNGS}
FULL = TABLES[RUNGS[-1]]


@dataclass
class Search:
    """What was trained, and the hypervolume of what it came to, epoch by epoch."""

    rungs: tuple[int, ...]
    seed: int
    spent: int = 0
    trained: dict[tuple[Any, ...], int] = field(default_factory=dict)
    spelled: dict[Any, dict[str, Any]] = field(default_factory=dict)
    points: list[tuple[float, float]] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.halving = Halving(self.rungs)
        space = {**FULL.space, EPOCHS: IntDistribution(self.rungs[0], self.rungs[-1], log=True)}
        fidelity = EPOCHS if len(self.rungs) > 1 else None
        sampler = FrontSampler(space, OBJECTIVES, self.cost, seed=self.seed, fidelity=fidelity)
        self.study = optuna.create_study(directions=list(OBJECTIVES.values()), sampler=sampler)
        self.space = space

    def cost(self, params: dict[str, Any]) -> dict[str, float]:
        i = FULL.find(params)
        return {"latency": float(FULL.latency[i]), "size": float(FULL.features["size_bytes"][i])}

    def run(self) -> list[tuple[int, float]]:
        while self.spent < LONG[len(self.rungs)]:
            try:
                trial = self.study.ask(self.space)
            except Exhausted:  # every training is begun, and none is left to go on
                break
            epochs = trial.params[EPOCHS]
            self.train(trial.params, epochs)
            self.tell(trial, trial.params, epochs)
            if epochs > self.rungs[0] or len(self.rungs) == 1:
                self.others(trial.params, epochs)
            for training, following in self.halving.ask():
                self.study.enqueue_trial({**self.spelled[training], EPOCHS: following}, skip_if_exists=True)
        return self.curve

    def train(self, params: dict[str, Any], epochs: int) -> None:
        """Goes on from what the training had."""
        name = FULL.training(params)
        self.spent += max(0, epochs - self.trained.get(name, 0))
        self.trained[name] = max(epochs, self.trained.get(name, 0))

    def tell(self, trial: optuna.Trial, params: dict[str, Any], epochs: int) -> None:
        table = TABLES[epochs]
        i = table.find(params)
        accuracy, latency = float(table.accuracy[i]), float(FULL.latency[i])
        self.study.tell(trial, [accuracy, latency])
        self.spelled.setdefault(FULL.training(params), params)
        self.halving.tell(FULL.training(params), epochs, (-accuracy, latency))
        self.points.append(point(accuracy, i))
        self.curve.append((self.spent, hypervolume(self.points, (1.0, 1 - WORST)) / FULL.full))

    def others(self, params: dict[str, Any], epochs: int) -> None:
        """The other formats of the same training, which cost no epoch."""
        for choice in FULL.space["precision"].choices:
            values = {**params, "precision": choice}
            if choice != params["precision"]:
                self.study.enqueue_trial(values, skip_if_exists=True)


def point(accuracy: float, i: int) -> tuple[float, float]:
    """On the scale of the table after the longest training."""
    return FULL.points[i][0], 1 - accuracy / FULL.accuracy[FULL.allowed].max()


def at(curve: list[tuple[int, float]], epochs: int) -> float:
    return max((value for spent, value in curve if spent <= epochs), default=0.0)


def figures(seeds: int) -> Iterator[dict[str, Any]]:
    with ProcessPoolExecutor(2) as crew:
        runs = {rungs: list(crew.map(searched, [(rungs, seed) for seed in range(seeds)])) for rungs in ((9,), RUNGS)}
    mean = {rungs: np.mean([[at(curve, n) for n in range(1, LONG[len(rungs)] + 1)] for curve in curves], axis=0)
            for rungs, curves in runs.items()}
    for epochs in TARGETS:
        level = float(mean[9,][epochs - 1])
        row: dict[str, Any] = {"epochs_without": epochs, "hypervolume": level}
        for name, target in (("within_1_percent", level * (1 - WITHIN)), ("equal", level)):
            there = reaching(mean[RUNGS], target)
            row |= {f"epochs_with, {name}": there, f"times_fewer, {name}": there and epochs / there}
        yield row


def searched(search: tuple[tuple[int, ...], int]) -> list[tuple[int, float]]:
    return Search(*search).run()


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    write("fidelity", {"seeds": seeds, "rungs": RUNGS, "table": "recipes, host-cpu", "rows": list(figures(seeds))})
