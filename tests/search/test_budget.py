import pytest

from pared.errors import BudgetError
from pared.evaluators.measurement import Measurement
from pared.search.budget import broken, parse, refused


@pytest.mark.parametrize(("text", "kind", "untouched", "limit"), [
    ("2ms", "latency", 10, 2), ("500us", "latency", 10, 0.5), ("50%", "latency", 10, 5), ("4x", "latency", 10, 2.5),
    ("100kB", "size", 1, 100_000), ("1 MiB", "size", 1, 1024**2), ("25%", "size", 1000, 250), ("64KiB", "memory", 1, 65536),
])
def test_a_budget_is_absolute_relative_or_a_factor(text: str, kind: str, untouched: float, limit: float) -> None:
    assert parse(text, kind).resolved(untouched) == pytest.approx(limit)


@pytest.mark.parametrize(("text", "kind"), [
    ("fast", "latency"), ("", "latency"), ("-2ms", "latency"), ("0ms", "latency"), ("2kB", "latency"),
    ("2ms", "size"), ("nan%", "size"), ("5", "latency"), ("1e999ms", "latency"),
])
def test_an_unreadable_budget_says_how_to_write_one(text: str, kind: str) -> None:
    with pytest.raises(BudgetError, match="write for example"):
        parse(text, kind)


def latency(value: float, spread: float = 0.0, unstable: bool = False) -> dict[str, Measurement]:
    return {"latency_ms@x": Measurement(value, "ms", "measured", spread, 10, 1.0, unstable)}


LIMIT = {"latency_ms@x": 1.0}


def test_broken_says_by_how_much() -> None:
    assert broken(LIMIT, latency(1.5)) == {"latency_ms@x": pytest.approx(0.5)}
    assert broken(LIMIT, latency(0.999)) == {} == broken({"size_bytes": 1.0}, latency(5))


@pytest.mark.parametrize(("metrics", "stops"), [
    (latency(0.97, 0.005), False),
    (latency(0.995, 0.005), True),  # the finished file may well be over
    (latency(0.97, 0.5), False),  # noise alone does not refuse
    (latency(1.05, 0.04, unstable=True), False),
    (latency(1.5, 0.04, unstable=True), True),  # over beyond doubt, however noisy
])
def test_before_training_there_is_no_benefit_of_the_doubt(metrics: dict, stops: bool) -> None:
    assert bool(refused(LIMIT, metrics)) is stops
