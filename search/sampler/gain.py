"""The hypervolume that a candidate is expected to add to a front.

A column is a line through the box of objectives along one of them, the axis. In it the front reaches
down to a floor, and what a candidate adds is its expected improvement on that floor, times the chance
that it dominates the column at all. The mean over columns is the expected hypervolume gain (Emmerich et
al., Single- and multiobjective evolutionary optimization assisted by Gaussian random field metamodels,
2006), with objectives taken as independent.
"""

import numpy as np
from scipy.special import ndtr
from scipy.stats import qmc

from .vectors import Rows

ALONG, ACROSS = 192, 512  # columns over one further objective, over several
BLOCK = 256  # candidates at a time: the memory that this takes is that of a driver
SURE = 1e-9  # spread of what is known


def expected(losses: Rows, mean: Rows, spread: Rows, axis: int, anywhere: bool = False) -> Rows:
    """(m,): of candidates whose losses are `mean` +- `spread` (m, k), over points `losses` (n, k).

    The box ends at the worst of the points along the axis, and at the worst of points and candidates along
    the others. `anywhere`: only the column that all of them reach counts, so the best along the axis.
    """
    rest = [i for i in range(losses.shape[1]) if i != axis]
    both = np.vstack([losses[:, rest], mean[:, rest]])
    places = columns(both.max(axis=0) if anywhere else both.min(axis=0), both.max(axis=0))
    floor = floors(places, losses[:, axis], losses[:, rest])
    low, where = np.unique(floor, return_inverse=True)
    found = np.zeros(len(mean))
    for begin in range(0, len(mean), BLOCK):
        some = slice(begin, begin + BLOCK)
        better = improvement(low - mean[some, axis, None], np.maximum(spread[some, axis, None], SURE))
        reached = reach(places, mean[some][:, rest], spread[some][:, rest])
        found[some] = np.mean(reached * better[:, where], axis=1)
    return found


def columns(low: Rows, high: Rows) -> Rows:
    """(c, k): places between `low` and `high` (k,), evenly spread."""
    if not len(low):
        return np.zeros((1, 0))
    if len(low) == 1:
        unit = ((np.arange(ALONG) + 0.5) / ALONG)[:, None]
    else:
        unit = qmc.Sobol(len(low), scramble=False).random(ACROSS) + 0.5 / ACROSS
    return low + unit * (high - low)


def floors(places: Rows, along: Rows, rest: Rows) -> Rows:
    """(c,): the least loss of the points that dominate each column; the worst of all where none does."""
    reaches = (rest[None, :, :] <= places[:, None, :]).all(axis=2)
    found: Rows = np.where(reaches, along[None, :], along.max()).min(axis=1)
    return found


def improvement(gap: Rows, spread: Rows) -> Rows:
    """Expected improvement over a floor that lies `gap` above the mean (Jones et al., 1998)."""
    steps = gap / spread
    found: Rows = spread * (steps * ndtr(steps) + np.exp(-0.5 * steps**2) / np.sqrt(2 * np.pi))
    return found


def below(limit: Rows, mean: Rows, spread: Rows) -> Rows:
    """The chance of each candidate to be within a limit."""
    found: Rows = ndtr((limit - mean) / np.maximum(spread, SURE))
    return found


def reach(places: Rows, mean: Rows, spread: Rows) -> Rows:
    """(m, c): the chance that a candidate dominates a column."""
    found = np.ones((len(mean), len(places)))
    for j in range(places.shape[1]):
        place, middle = places[None, :, j], mean[:, None, j]
        found *= below(place, middle, spread[:, None, j]) if spread[:, j].any() else middle <= place
    return found
