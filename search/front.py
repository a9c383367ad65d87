"""Non-dominated points, hypervolume, picking. Pure: no files, no clock."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
Losses = tuple[float, ...]  # every entry to be small


def non_dominated(items: Sequence[T], losses: Callable[[T], Losses]) -> list[T]:
    """The items that no other item beats; of items with equal losses the first stays."""
    points = [losses(item) for item in items]
    kept: list[int] = []
    for i in sorted(range(len(items)), key=points.__getitem__):  # only those before can be as good or better
        if not any(_as_good(points[j], points[i]) for j in kept):
            kept.append(i)
    return [items[i] for i in sorted(kept)]


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area between the points (both entries to be small) and the reference point."""
    area, edge = 0.0, reference[1]
    for x, y in sorted(set(points)):
        if x < reference[0] and y < edge:
            area += (reference[0] - x) * (edge - y)
            edge = y
    return area


def _as_good(a: Losses, b: Losses) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True))
