"""Which trainings go on: by non-dominated rank, then by how lonely they are."""

from math import inf

from pared.search.halving import Halving, crowding, ranked


def test_the_best_third_of_a_rung_goes_on_and_nobody_twice() -> None:
    halving = Halving((1, 3, 9))
    for i in range(6):
        halving.tell(f"t{i}", 1, (float(i), float(i)))  # each beats the next
    assert halving.ask() == [("t0", 3), ("t1", 3)]
    assert halving.ask() == []
    for i in range(6, 9):
        halving.tell(f"t{i}", 1, (float(i), float(i)))
    assert halving.ask() == [("t2", 3)]


def test_a_rung_is_judged_by_itself_and_the_higher_one_first() -> None:
    halving = Halving((1, 3, 9))
    for name, losses in {"a": (3.0,), "b": (2.0,), "c": (1.0,)}.items():
        halving.tell(name, 3, losses)
    for i in range(3):
        halving.tell(f"t{i}", 1, (-float(i),))
    assert halving.ask() == [("c", 9), ("t2", 3)]


def test_what_was_told_further_on_is_not_sent_there_again() -> None:
    halving = Halving((1, 3))
    halving.tell("known good", 3, (0.0,))
    for i in range(3):
        halving.tell("known good" if not i else f"t{i}", 1, (float(i),))
    assert halving.ask() == []


def test_a_training_counts_as_the_best_of_its_models() -> None:
    told = {"one good": [(5.0, 5.0), (0.0, 1.0)], "middling": [(2.0, 2.0)], "bad": [(3.0, 3.0), (4.0, 4.0)]}
    assert ranked(told) == ["one good", "middling", "bad"]


def test_of_equal_rank_the_lonely_go_first() -> None:
    told = {"left": [(0.0, 10.0)], "crowded": [(4.9, 5.1)], "crowd": [(5.0, 5.0)], "lonely": [(8.0, 2.0)],
            "right": [(10.0, 0.0)]}
    assert set(ranked(told)[:2]) == {"left", "right"} and ranked(told)[-1] == "crowd"
    assert crowding([(1.0, 2.0)]) == [inf]


def test_half_of_the_untrained_go_on_from_a_rung_of_no_epochs() -> None:
    halving = Halving((0, 1))
    for i in range(4):
        halving.tell(i, 0, (float(i),))
    assert halving.ask() == [(0, 1), (1, 1)]


def test_without_rungs_nothing_goes_on() -> None:
    halving = Halving(())
    halving.tell("a", 3, (1.0,))
    assert halving.ask() == []
