"""Who gets narrower: from one amount for the whole network to a width for each group.

`knapsack` is HALP's problem (Shen et al. 2022, arXiv:2110.10811): of every group one width, so that the
value kept is largest and the cost within a budget. What two neighbours cost is a product of their
widths, so the costs are linearised around a plan that closes in on the budget from the untouched model.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from ...errors import GateError
from ._channels import Group

Plan = dict[str, int]  # root -> width
Values = Mapping[str, Mapping[int, float]]  # root -> width -> what is kept at it
CostOf = Callable[[Mapping[str, int]], float]
Rises = Mapping[str, Sequence[tuple[float, float]]]  # root -> (ratio, rise of the distance)

MOST_WIDTHS = 32  # of one group; more are thinned out
ROUNDS, SETTLING = 8, 3  # steps towards the budget; repeats once there


def narrowed(width: int, ratio: float, step: int) -> int:
    """The width nearest to `width * (1 - ratio)` that is a multiple of `step`, at least one step."""
    target = max(step, round(width * (1 - ratio) / step) * step)
    return min(width, target)


def choices(width: int, step: int) -> list[int]:
    """The widths that a group may get, its own included, ascending."""
    every = step * max(1, -(-width // (step * MOST_WIDTHS)))
    return sorted({min(step, width), *range(every, width, every), width})


def pooled(scores: Mapping[str, Tensor], amount: float, step: int) -> Plan:
    """One threshold over all channels of all groups, under which the share `amount` of them lies."""
    every = torch.cat(list(scores.values())).sort().values
    threshold = every[min(len(every) - 1, round(amount * len(every)))]
    return {root: narrowed(len(each), float((each < threshold).float().mean()), step)
            for root, each in scores.items()}


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
        plan = _solved(values, _around(values, plan, cost), cost(plan), allowed)
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


def _solved(values: Values, added: Mapping[str, Mapping[int, float]], now: float, allowed: float) -> Plan:
    """The linear problem; the narrowest plan where it has no solution."""
    every = [(root, width) for root, of in values.items() for width in of]
    gain = np.array([values[root][width] for root, width in every])
    price = np.array([added[root][width] for root, width in every])
    one_each = np.array([[float(root == of) for of, _ in every] for root in values])
    result = milp(
        -gain / max(1e-30, np.abs(gain).max()),
        integrality=np.ones(len(every)), bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1),
                     LinearConstraint(price[None] / now, -np.inf, allowed / now - 1)])
    if result.x is None:
        return {root: min(of) for root, of in values.items()}
    return {root: width for (root, width), x in zip(every, result.x, strict=True) if x > 0.5}


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
