"""One option for each layer: the least loss that a budget allows, exactly."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

Option = TypeVar("Option", int, bool)


def cheapest(
    losses: Mapping[str, Mapping[Option, float]], costs: Mapping[str, Mapping[Option, float]], budget: float
) -> dict[str, Option] | None:
    """Layer -> option with the least summed loss among those whose summed cost is within the budget.

    None when not even the cheapest options fit. A multiple-choice knapsack, as an integer program.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # a third of a second that few workers need

    pairs = [(layer, option) for layer, row in losses.items() for option in row]
    loss = np.array([losses[layer][option] for layer, option in pairs])
    cost = np.array([costs[layer][option] for layer, option in pairs])
    one_each = np.array([[layer == mine for layer, _ in pairs] for mine in losses], float)
    scale = max(1e-300, float(np.median(loss[loss > 0]))) if (loss > 0).any() else 1.0
    found = milp(loss / scale, integrality=np.ones(len(pairs)), bounds=Bounds(0, 1), constraints=[
        LinearConstraint(one_each, 1, 1), LinearConstraint(cost[None] / max(1.0, budget), -np.inf, 1 + 1e-9)],
                 options={"mip_rel_gap": 1e-6})
    if found.x is None:
        return None
    return {layer: option for (layer, option), taken in zip(pairs, found.x, strict=True) if taken > 0.5}
