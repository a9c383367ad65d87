import pytest

from pared.errors import ConfigError
from pared.spaces.knob import Choice, FloatRange, IntRange


def test_a_choice_tells_true_from_one() -> None:
    assert True in Choice((True, False)) and 1 not in Choice((True, False))


def test_ranges_snap_to_their_step_and_their_ends() -> None:
    ratio = FloatRange(0.0, 0.8, step=0.1)
    assert [ratio.nearest(v) for v in (0.34, 0.36, -1, 5)] == [0.3, 0.4, 0.0, 0.8]
    assert IntRange(4, 8, step=4).nearest(5) == 4


def test_narrowing_keeps_the_kind_of_number() -> None:
    assert IntRange(1, 8, log=True).narrowed([1, 4]) == IntRange(1, 4, log=True)
    assert FloatRange(0.0, 0.8, step=0.1).narrowed(0.5) == FloatRange(0.5, 0.5, step=0.1)
    assert Choice(("a", "b", "c")).narrowed(["c", "a"]) == Choice(("a", "c"))


@pytest.mark.parametrize(("knob", "wish"), [
    (Choice(("l1", "l2")), ["l3"]),
    (IntRange(1, 8), [0, 4]),
    (FloatRange(0.0, 0.8, step=0.1), [0.0, 0.85]),
    (FloatRange(0.0, 0.8, step=0.1), "lots"),
    (IntRange(1, 8), [4, 2]),
])
def test_narrowing_says_what_is_allowed_when_the_wish_is_outside(knob: object, wish: object) -> None:
    with pytest.raises(ConfigError):
        knob.narrowed(wish)
