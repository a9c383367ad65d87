import random

import pytest

from pared.search.front import hypervolume, non_dominated


def test_front_keeps_what_nothing_beats_and_one_of_equals() -> None:
    points = [(1, 5), (2, 3), (3, 3), (4, 1), (2, 3), (5, 5)]
    assert non_dominated(points, lambda p: p) == [(1, 5), (2, 3), (4, 1)]


def test_every_dropped_point_is_beaten_by_a_kept_one() -> None:
    dice = random.Random(0)
    points = [(dice.random(), dice.random(), dice.random()) for _ in range(200)]
    kept = non_dominated(points, lambda p: p)
    for point in set(points) - set(kept):
        assert any(all(a <= b for a, b in zip(k, point, strict=True)) for k in kept)


def test_hypervolume_of_known_shapes() -> None:
    assert hypervolume([(0.5, 0.5)], (1, 1)) == 0.25
    assert hypervolume([(0.25, 0.5), (0.5, 0.25)], (1, 1)) == pytest.approx(0.375 + 0.125)
    assert hypervolume([(2, 2), (1, 0)], (1, 1)) == 0
