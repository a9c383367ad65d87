"""Who gets narrower: from one amount for the whole network to a width for each group.

`knapsack` is HALP's problem (Shen et al. 2022, arXiv:2110.10811): of every group one width, so that the
value kept is largest and the cost within a budget. What two neighbours cost is a product of their
widths, so the costs are linearised around a plan that closes in on the budget from the untouched model.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import GateError
from ._channels import Group

Plan = dict[str, int]  # root -> width
Values = Mapping[str, Mapping[int, float]]  # root -> width -> what is kept at it
CostOf = Callable[[Mapping[str, int]], float]
Choices = NDArray[np.int64]
Rises = Mapping[str, Sequence[tuple[float, float]]]  # root -> (ratio, rise of the distance)

MOST_WIDTHS = 32  # of one group; more are thinned out
ROUNDS, SETTLING = 8, 3  # steps towards the budget; repeats once there
BINS = 4000  # that a budget is divided into


def narrowed(width: int, ratio: float, step: int) -> int:
    """The width nearest to `width * (1 - ratio)` that is a multiple of `step`, at least one step."""
    target = max(step, round(width * (1 - ratio) / step) * step)
    return min(width, target)


def choices(width: int, step: int) -> list[int]:
    """The widths that a group may get, its own included, ascending."""
    every = step * max(1, -(-width // (step * MOST_WIDTHS)))
    return sorted({min(step, width), *range(every, width, every), width})


def pooled(scores: Mapping[str, Tensor], amount: float, step: int) -> Plan:
    """The share `amount` of all channels of all groups leaves, the lowest scores first."""
    every = torch.cat(list(scores.values()))
    lowest = every.argsort(stable=True)[: round(amount * len(every))]
    leaves = torch.zeros(len(every)).index_fill_(0, lowest, 1.0)
    parts = torch.split(leaves, [len(each) for each in scores.values()])
    return {root: narrowed(len(part), float(part.mean()), step)
            for root, part in zip(scores, parts, strict=True)}


def kept_importance(scores: Mapping[str, Tensor], step: int) -> Values:
    """Sum of the scores of the channels that stay, for every width that a group may get."""
    sums = {root: each.sort(descending=True).values.double().cumsum(0) for root, each in scores.items()}
    return {root: {width: float(each[width - 1]) for width in choices(len(each), step)}
            for root, each in sums.items()}


def spared(groups: Sequence[Group], rises: Rises, step: int) -> Values:
    """Minus the measured rise at every width; a group that was not measured keeps its own."""
    known = {group: next((rises[path] for path in (group.root, *group.makers) if path in rises), None)
             for group in groups}
    return {group.root: {width: -_rise(points, 1 - width / group.width)
                         for width in choices(group.width, step)} if points else {group.width: 0.0}
            for group, points in known.items()}


def knapsack(values: Values, cost: CostOf, amount: float) -> Plan:
    """The plan of largest summed value whose cost is the share `amount` below that of the widest one.

    Raises GateError when even the narrowest plan costs more.
    """
    plan = {root: max(of) for root, of in values.items()}
    full, floor = cost(plan), cost({root: min(of) for root, of in values.items()})
    budget = full * (1 - amount)
    if floor > budget:
        raise GateError(f"{amount:.0%} of the cost was to go, the narrowest saves {1 - floor / full:.1%}")
    found = []
    for turn in range(1, ROUNDS + SETTLING + 1):
        allowed = full - (full - budget) * min(1.0, turn / ROUNDS)
        plan = _solved(values, _around(values, plan, cost), allowed - cost(plan))
        if turn >= ROUNDS:
            found.append(_filled(values, _trimmed(values, plan, cost, budget), cost, budget))
    return max(found, key=lambda each: _value(values, each))


def _rise(points: Sequence[tuple[float, float]], ratio: float) -> float:
    """Between the measured ratios a straight line; beyond the last one, on as steeply as it ended."""
    ratios, rises = (np.array([0.0, *side]) for side in zip(*sorted(points), strict=True))
    rises = np.maximum.accumulate(rises)
    slope = max(rises[-1] / ratios[-1], (rises[-1] - rises[-2]) / (ratios[-1] - ratios[-2]))
    beyond = max(0.0, ratio - ratios[-1]) * slope
    return float(np.interp(ratio, ratios, rises) + beyond)


def _around(values: Values, plan: Plan, cost: CostOf) -> dict[str, dict[int, float]]:
    """What each width of each group adds to the cost of the plan, all others as planned."""
    now = cost(plan)
    return {root: {width: cost({**plan, root: width}) - now for width in of} for root, of in values.items()}


def _solved(values: Values, added: Mapping[str, Mapping[int, float]], spare: float) -> Plan:
    """The linear problem by dynamic programming; the narrowest plan where it has no solution.

    `added` counts from the planned widths, so it must sum to `spare` at most, which may be negative.
    """
    least = {root: min(of.values()) for root, of in added.items()}
    room = spare - sum(least.values())
    if room <= 0:
        return {root: min(of) for root, of in values.items()}
    unit = room / BINS
    best, taken = np.zeros(BINS + 1), []  # value, by cost above the cheapest widths in units
    for root, of in added.items():
        ways = np.full((len(of), BINS + 1), -np.inf)
        for i, (width, extra) in enumerate(of.items()):
            at = min(BINS + 1, math.ceil((extra - least[root]) / unit))
            ways[i, at:] = best[: BINS + 1 - at] + values[root][width]
        taken.append(ways.argmax(0))
        best = ways.max(0)
    return _traced(added, least, unit, taken)


def _traced(
    added: Mapping[str, Mapping[int, float]], least: Mapping[str, float], unit: float, taken: list[Choices]
) -> Plan:
    """The widths that led to the best value of all, read backwards."""
    plan: Plan = {}
    at = BINS
    for (root, of), choice in zip(list(added.items())[::-1], taken[::-1], strict=True):
        plan[root], extra = list(of.items())[choice[at]]
        at -= math.ceil((extra - least[root]) / unit)
    return plan


def _trimmed(values: Values, plan: Plan, cost: CostOf, budget: float) -> Plan:
    """Narrower where that loses least for what it saves, until the plan is within the budget."""
    while (now := cost(plan)) > budget:
        ways = [{**plan, root: width} for root, of in values.items() for width in of if width < plan[root]]
        saved = [(now - cost(way), way) for way in ways]
        plan = min(((_value(values, plan) - _value(values, way)) / saving, i, way)
                   for i, (saving, way) in enumerate(saved) if saving > 0)[2]
    return plan


def _filled(values: Values, plan: Plan, cost: CostOf, budget: float) -> Plan:
    """Wider as long as that gains and stays within the budget."""
    while True:
        ways = [{**plan, root: width} for root, of in values.items() for width in of if width > plan[root]]
        now = _value(values, plan)
        fits = [way for way in ways if _value(values, way) > now and cost(way) <= budget]
        if not fits:
            return plan
        plan = max(fits, key=lambda way: _value(values, way))


def _value(values: Values, plan: Plan) -> float:
    return sum(values[root][width] for root, width in plan.items())
