"""FrontSampler against Optuna's samplers on tables of measured candidates.

`search_efficiency.py run [SEEDS]` appends to `results/search_efficiency.jsonl`, one line a search; searches
that are there are not run again. `search_efficiency.py report` makes the table and the picture of `docs/`.
Four settings: the plain one; a cost that is wrong by 20 % a candidate; four proposals pending at a time;
a hard budget that the fastest tenth of the candidates meets.
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import optuna
from common import RESULTS, write
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from tables import RECIPES, Table, nasbench, recipes

from pared.search.sampler import FrontSampler

LOG = RESULTS / "search_efficiency.jsonl"
LONG, SHORT, FEW = 200, 100, 50  # a tight budget leaves 65 recipes of the smallest table
WRONG, PENDING = 0.2, 4
OBJECTIVES = {"accuracy": "maximize", "latency": "minimize"}
OWN = "recipes, host-cpu"
SETTINGS = ("plain", "wrong cost", "four pending", "budget")
Costs = Callable[[dict[str, Any]], dict[str, float]]


@dataclass(frozen=True)
class Search:
    """One search of one table by one sampler."""

    table: str
    sampler: str
    setting: str
    seed: int

    @property
    def evaluations(self) -> int:
        if self.table == OWN and self.setting == "budget":
            return FEW
        return LONG if self.setting == "plain" and self.sampler != "gp" else SHORT


class Checked(RandomSampler):
    """Random, drawn again until it is new and within the budget: the free cost check alone."""

    def __init__(self, table: Table, cost: Costs, limit: float, seed: int) -> None:
        super().__init__(seed)
        self.table, self.cost, self.limit = table, cost, limit
        self.dice, self.tried = np.random.default_rng(seed), set[int]()

    def infer_relative_search_space(self, study: optuna.Study, trial: Any) -> Any:
        return dict(self.table.space)

    def sample_relative(self, study: optuna.Study, trial: Any, search_space: Any) -> dict[str, Any]:
        while True:
            params = {name: self.dice.choice(values(each)).item() for name, each in self.table.space.items()}
            number = self.table.find(params)
            if number not in self.tried and self.cost(params)["latency"] <= self.limit:
                self.tried.add(number)
                return params


def values(distribution: BaseDistribution) -> list[Any]:
    """All of them: of a category, or of whole numbers."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution)
    return list(range(distribution.low, distribution.high + 1))


def sampler(search: Search, table: Table, cost: Costs) -> BaseSampler:
    seed, limit = search.seed, table.budget if search.setting == "budget" else np.inf
    if search.sampler == "front":
        budgets = {"latency": limit} if np.isfinite(limit) else None
        return FrontSampler(table.space, OBJECTIVES, cost, budgets, seed)
    return {
        "random": lambda: RandomSampler(seed),
        "random + cost check": lambda: Checked(table, cost, limit, seed),
        "tpe": lambda: TPESampler(seed=seed),
        "tpe multivariate": lambda: TPESampler(
            seed=seed, multivariate=True, constant_liar=search.setting == "four pending"),
        "nsga2": lambda: NSGAIISampler(population_size=20, seed=seed),
        "gp": lambda: GPSampler(seed=seed),
    }[search.sampler]()


def searched(search: Search) -> dict[str, Any]:
    """What was evaluated in which order, and how long a proposal took."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = tables()[search.table]
    wrong = WRONG if search.setting == "wrong cost" else 0.0
    factors = np.exp(wrong * np.random.default_rng(search.seed).standard_normal(len(table.latency)))

    def cost(params: dict[str, Any]) -> dict[str, float]:
        i = table.find(params)
        latency = table.latency[i] * factors[i] if table.allowed[i] else np.inf
        return {"latency": float(latency), **{name: float(each[i]) for name, each in table.features.items()}}

    study = optuna.create_study(directions=list(OBJECTIVES.values()), sampler=sampler(search, table, cost))
    found, asked_s, waiting = [], 0.0, list[tuple[optuna.Trial, int]]()
    while len(found) < search.evaluations:
        while len(waiting) < (PENDING if search.setting == "four pending" else 1):
            began = time.perf_counter()
            trial = study.ask(dict(table.space))
            asked_s += time.perf_counter() - began
            waiting.append((trial, table.find(trial.params)))
        trial, i = waiting.pop(0)
        found.append(i)
        tell(study, trial, table, i, search)
    return {**search.__dict__, "found": [int(i) for i in found], "ms_a_proposal": 1e3 * asked_s / len(found)}


def tell(study: optuna.Study, trial: optuna.Trial, table: Table, i: int, search: Search) -> None:
    if not table.allowed[i]:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return
    if search.setting == "budget":
        trial.set_constraint("latency", table.latency[i] / table.budget - 1)
    study.tell(trial, [table.accuracy[i], table.latency[i]])


@cache
def tables() -> dict[str, Table]:
    own = [recipes()] if RECIPES.exists() else []
    return {table.name: table for table in (*nasbench(), *own)}


def wanted(seeds: int) -> Iterator[Search]:
    """The slow GP on one table and few seeds."""
    for seed in range(seeds):
        for table in tables():
            for setting in SETTINGS:
                for name in ("front", "tpe multivariate", "random + cost check"):
                    yield Search(table, name, setting, seed)
            for name in ("tpe", "nsga2", "random"):
                yield Search(table, name, "plain", seed)
    for seed in range(3):
        for table in (next(iter(tables())), OWN):
            yield Search(table, "gp", "plain", seed)


def logged() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []


def run(seeds: int) -> None:
    done = {tuple(row[key] for key in Search.__annotations__) for row in logged()}
    left = [each for each in wanted(seeds) if tuple(each.__dict__.values()) not in done]
    began = time.time()
    with ProcessPoolExecutor(int(os.environ.get("WORKERS", "2"))) as crew, LOG.open("a") as log:
        for n, row in enumerate(crew.map(searched, left), 1):
            print(json.dumps(row), file=log, flush=True)
            print(f"\r{n} of {len(left)}, {(time.time() - began) / n * (len(left) - n):.0f} s left", end="")


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run(int(sys.argv[2]) if len(sys.argv) > 2 else 20)
    else:
        from search_efficiency_report import report

        write("search_efficiency", report(logged(), tables()))
