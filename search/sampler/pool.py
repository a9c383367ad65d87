"""Candidates worth a look: some from anywhere, some near what is good so far."""

import numpy as np

from .vectors import Levels

WHOLE = 4096  # spaces of up to so many points are looked at whole


def is_small(sizes: Levels) -> bool:
    return bool(np.prod(sizes.astype(float)) <= WHOLE)


def anywhere(sizes: Levels, count: int, dice: np.random.Generator) -> Levels:
    """(m, d): every point of a small space, else `count` drawn evenly."""
    if is_small(sizes):
        axes = np.meshgrid(*map(np.arange, sizes), indexing="ij")
        return np.stack([axis.ravel() for axis in axes], axis=1)
    return dice.integers(0, sizes, (count, len(sizes)))


def nearby(sizes: Levels, parents: Levels, count: int, dice: np.random.Generator) -> Levels:
    """(count, d): children of one or two parents, at least one column of each changed."""
    child, other = (parents[dice.integers(len(parents), size=count)] for _ in range(2))
    crossed = (dice.random((count, 1)) < 0.3) & (dice.random(child.shape) < 0.5)
    child = np.where(crossed, other, child)
    changed = dice.random(child.shape) < 1 / len(sizes)
    changed[np.arange(count), dice.integers(len(sizes), size=count)] = True
    return np.where(changed | (child < 0), _drawn_again(sizes, child, dice), child)


def _drawn_again(sizes: Levels, child: Levels, dice: np.random.Generator) -> Levels:
    """From anywhere, or half of the time a step away where there are many values."""
    step = (1 + dice.poisson(sizes / 16, child.shape)) * dice.choice([-1, 1], child.shape)
    stepping = (sizes > 4) & (child >= 0) & (dice.random(child.shape) < 0.5)
    return np.where(stepping, np.clip(child + step, 0, sizes - 1), dice.integers(0, sizes, child.shape))
