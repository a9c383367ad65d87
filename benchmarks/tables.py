"""Searches that cost nothing: every candidate of a space, with its measured accuracy and latency."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from pared.search.front import hypervolume

RECIPES = Path(__file__).parent / "results" / "recipes.csv"
NASBENCH = Path(__file__).parent.parent.parent / "shared" / "latency" / "nasbench201.npz"
FOLDED = 0.05  # of the median latency: what lies below was folded away by its runtime
WORST = 0.7  # share of the best accuracy at which nothing counts
TIGHT = 0.1  # share of the candidates that meet the hard budget

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """n candidates; accuracy in percent, latency in ms, and what else is known of each beforehand."""

    name: str
    space: Mapping[str, BaseDistribution]
    rows: Mapping[tuple[Any, ...], int]  # values in the order of `space` -> candidate
    accuracy: Array
    latency: Array
    features: Mapping[str, Array]
    allowed: NDArray[np.bool_]
    shared: tuple[str, ...] = ()  # parameters of which one training serves every value

    def find(self, params: Mapping[str, Any]) -> int:
        return self.rows[tuple(params[name] for name in self.space)]

    def training(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        """What a candidate is trained as; those that differ only in what comes after training share it."""
        return tuple(params[name] for name in self.space if name not in self.shared)

    @cached_property
    def full(self) -> float:
        """Hypervolume of the whole table."""
        return self.hypervolume(np.flatnonzero(self.allowed))

    @cached_property
    def points(self) -> list[tuple[float, float]]:
        """Log latency scaled to 0-1 over the table, and what is missing to the best accuracy, as a share."""
        logs = np.log(self.latency)
        low, high = logs[self.allowed].min(), logs[self.allowed].max()
        lost = 1 - self.accuracy / self.accuracy[self.allowed].max()
        return list(zip((logs - low) / (high - low), lost, strict=True))

    def hypervolume(self, found: NDArray[np.int64] | list[int]) -> float:
        """Of the `points`, over WORST."""
        return hypervolume([self.points[i] for i in found if self.allowed[i]], (1.0, 1 - WORST))

    @cached_property
    def budget(self) -> float:
        """The latency that a share TIGHT of the candidates meets."""
        return float(np.quantile(self.latency[self.allowed], TIGHT))

    def regret(self, found: list[int]) -> float:
        """Points of accuracy between the best candidate within the budget and the best one found."""
        within = self.allowed & (self.latency <= self.budget)
        got = [self.accuracy[i] for i in found if within[i]]
        return float(self.accuracy[within].max() - max(got, default=0.0))


def nasbench() -> list[Table]:
    """All 15,625 cells of NAS-Bench-201 on five device settings; nothing where the data is absent."""
    if not NASBENCH.exists():
        print(f"{NASBENCH} is absent: its tables are left out")
        return []
    data = np.load(NASBENCH)
    names = [str(name) for name in data["op_names"]]
    space = {f"edge{k}": CategoricalDistribution(names) for k in range(6)}
    rows = {tuple(names[op] for op in ops): i for i, ops in enumerate(data["ops"])}
    accuracy = np.nanmean(data["accuracy__cifar10"].astype(float), axis=1)
    found = []
    for key in (key for key in data.files if key.startswith("latency_ms__")):
        latency = data[key].astype(float)
        allowed = latency > FOLDED * np.median(latency)
        found.append(Table(key.removeprefix("latency_ms__"), space, rows, accuracy, latency,
                           {"parameters": data["model_size_mparam"].astype(float)}, allowed))
    return found


@cache
def recipes(device: str = "host-cpu", epochs: int = 9, seed: int = 0) -> Table:
    """Every recipe of `recipes.py` after so many epochs, on one of its devices."""
    with RECIPES.open() as file:
        told = [row for row in csv.DictReader(file) if int(row["seed"]) == seed and row["epochs"] != "0"]
    longest = max(int(row["epochs"]) for row in told)
    cost = {_values(row): row for row in told if int(row["epochs"]) == longest}
    found = [row for row in told if int(row["epochs"]) == epochs]
    space = {name: RANGES.get(name) or CategoricalDistribution(sorted({row[name] for row in found}))
             for name in SETTINGS}
    latency = np.array([float(cost[_values(row)][f"latency_ms@{device}"] or "nan") for row in found])
    features = {"size_bytes": np.array([float(cost[_values(row)]["size_bytes"]) for row in found])}
    return Table(f"recipes, {device}", space, {_values(row): i for i, row in enumerate(found)},
                 np.array([100 * float(row["accuracy"]) for row in found]), latency, features,
                 np.isfinite(latency), ("precision",))


SETTINGS = ("ratio1", "ratio2", "ratio3", "learning_rate", "soft_weight", "transfer", "precision")
RATIOS = ("0.0", "0.4", "0.7")
RANGES: dict[str, BaseDistribution] = {f"ratio{i}": IntDistribution(0, len(RATIOS) - 1) for i in (1, 2, 3)}


def _values(row: Mapping[str, str]) -> tuple[Any, ...]:
    """Parameters in the order of SETTINGS; a ratio is its place among those that there are."""
    return tuple(RATIOS.index(row[name]) if name in RANGES else row[name] for name in SETTINGS)
