"""Several proposals from one look at what was found, for when trials end faster than a surrogate is asked."""

from collections.abc import Callable

import numpy as np

from .vectors import Levels, Rows

TRIALS = 100  # one more proposal comes from a ranking for every so many trials
LARGE, FEWER = 1000, 20  # from so many trials on, for every so many
NEAR = 1.0  # squared distance, of `Vectors.embed`, at which most of a gain is thought to be shared


def length(trials: int, batch: int) -> int:
    """Proposals that one ranking is good for: at least `batch`, more where there are many trials."""
    return max(batch, trials // (TRIALS if trials < LARGE else FEWER))


def apart(gains: Rows, points: Rows, count: int, takes: Callable[[int], bool]) -> Levels:
    """Indices of at most `count` of the best (m,), each by what those before leave of its gain.

    `points` (m, p). `takes` says whether one is wanted at all.

    Local penalisation (Gonzalez et al., Batch Bayesian optimization via local penalization,
    2016), with a gain shared the more the nearer two points are.
    """
    left, chosen = gains.astype(float), list[int]()
    while len(chosen) < count and np.isfinite(left[best := int(np.argmax(left))]):
        if takes(best):
            chosen.append(best)
            left *= -np.expm1(-((points - points[best]) ** 2).sum(axis=1) / NEAR)
        left[best] = -np.inf
    return np.array(chosen, np.int64)
