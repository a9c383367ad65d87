"""Asynchronous successive halving for several objectives: which trainings are worth going on with.

A training is judged at rungs, such as 1, 3 and 9 epochs. The best of a rung go on to the next; the best
are those of the lowest non-dominated rank, and of these the ones that lie where few others do. Nobody
waits for a rung to fill (ASHA, Li et al. 2018, arXiv:1810.05934; several objectives: Schmucker et al.
2021, arXiv:2106.12639). Pure: knows neither models nor studies.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from math import inf

from .front import Losses, non_dominated

HALF = 2  # of those judged after no epoch at all, one in so many goes on


@dataclass
class Halving:
    """`rungs` ascend. One in `next / this` of those judged at a rung goes on: rungs cost about the same."""

    rungs: Sequence[int]
    told: dict[int, dict[Hashable, list[Losses]]] = field(default_factory=dict)
    gone_on: set[tuple[Hashable, int]] = field(default_factory=set)
    news: set[int] = field(default_factory=set)  # rungs that were told of since they were last looked at

    def tell(self, name: Hashable, rung: int, losses: Losses) -> None:
        """What one model of a training came to, every loss to be small; a training may lead to several."""
        for lower in (each for each in self.rungs if each < rung):
            self.gone_on.add((name, lower))
        self.told.setdefault(rung, {}).setdefault(name, []).append(losses)
        self.news.add(rung)

    def ask(self) -> list[tuple[Hashable, int]]:
        """Trainings to go on with, and the rung to go on to; each is named once."""
        found = []
        for this, following in reversed(list(zip(self.rungs, self.rungs[1:], strict=False))):
            if this not in self.news:
                continue
            best = ranked(self.told.get(this, {}))
            share = following / this if this else HALF
            for name in best[: int(len(best) / share)]:
                if (name, this) not in self.gone_on:
                    self.gone_on.add((name, this))
                    found.append((name, following))
        self.news.clear()
        return found


def ranked(told: dict[Hashable, list[Losses]]) -> list[Hashable]:
    """Names by the best of their points: by non-dominated rank, then the loneliest first."""
    points = list(dict.fromkeys(point for mine in told.values() for point in mine))
    place: dict[Losses, tuple[int, float]] = {}
    rank = 0
    while left := [point for point in points if point not in place]:
        layer = non_dominated(left, lambda point: point)
        place |= {point: (rank, -lonely) for point, lonely in zip(layer, crowding(layer), strict=True)}
        rank += 1
    return sorted(told, key=lambda name: min(place[point] for point in told[name]))


def crowding(points: Sequence[Losses]) -> list[float]:
    """How far the neighbours of each point are, summed over losses as shares of their range; ends: infinite.

    Crowding distance, Deb et al. 2002 (NSGA-II).
    """
    found = [0.0] * len(points)
    for loss in range(len(points[0])):
        order = sorted(range(len(points)), key=lambda i: points[i][loss])
        span = points[order[-1]][loss] - points[order[0]][loss]
        found[order[0]] = found[order[-1]] = inf
        for before, at, after in zip(order, order[1:], order[2:], strict=False):
            found[at] += (points[after][loss] - points[before][loss]) / span if span else 0.0
    return found
