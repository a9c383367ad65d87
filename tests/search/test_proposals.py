"""What is asked next: each recipe once, and all that waits."""

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from helpers import TINY

from pared.hardware_profiles.load import load
from pared.search import study as book
from pared.search.config import RunConfig, build
from pared.search.proposals import REASKS, Proposals
from pared.search.records import Outcome
from pared.spaces import space
from pared.spaces.passes import Scope

SPACE = space.build(Scope(("a", "b"), {"Conv": 1.0}, (load("host-cpu"),)), {"prune": {"amount": [0.2, 0.8]}})


@pytest.fixture
def config() -> RunConfig:
    return build({"model": f"{TINY}:subject", "search": {"trials": 300, "sampler": "tpe"}}, {}, "here")


@pytest.fixture
def study(tmp_path: Path, config: RunConfig) -> Iterator[optuna.Study]:
    with book.opened(tmp_path, config, optuna.samplers.RandomSampler(seed=0)) as (opened, _):
        yield opened


def test_what_was_trained_is_not_proposed_again_as_its_own_variant(study: optuna.Study, config: RunConfig) -> None:
    """Steps of 0.05 that are added up are off in the last digit."""
    proposals = Proposals(study, SPACE, config)
    for i in range(40):
        flight = proposals.next(1)
        assert flight is not None
        metrics = {name: {"value": 1.0} for name in ("accuracy", "latency_ms@host-cpu", "size_bytes")}
        trained = f"{i:064x}" if proposals.trains(flight) else ""
        outcome = Outcome("complete", metrics=metrics, trained=trained)
        book.tell(study, flight.trial, outcome, list(metrics))
        proposals.told(flight, outcome)
    waiting = [t for t in study.get_trials() if t.state == optuna.trial.TrialState.WAITING]
    assert waiting and any(t.user_attrs[book.ORIGIN] == "sibling" for t in waiting)
    digests = [t.user_attrs[book.DIGEST] for t in waiting]
    assert len(digests) == len(set(digests)) and not set(digests) & set(proposals.seen)


def test_a_variant_needs_no_training_of_its_own(study: optuna.Study, config: RunConfig) -> None:
    proposals = Proposals(study, SPACE, config)
    trained = SPACE.setting({"prune": 0}, "none")
    for values in SPACE.siblings(trained):
        proposals._enqueue(values, "sibling")
    flights = [proposals.next(9) for _ in SPACE.siblings(trained)]
    assert all(flight and flight.prefix == SPACE.decode(trained).prefix.digest for flight in flights)
    assert not any(flight.recipe.tuning_steps for flight in flights if flight)


def test_many_repeats_in_line_do_not_end_a_search(study: optuna.Study, config: RunConfig) -> None:
    proposals = Proposals(study, SPACE, config)
    anchors = SPACE.anchors()
    for values in [anchors[0]] * (2 * REASKS) + anchors[1:2]:
        study.enqueue_trial(values, user_attrs={book.ORIGIN: "sibling"})
    asked = [proposals.next(1), proposals.next(1)]
    assert [flight and flight.recipe for flight in asked] == [SPACE.decode(values) for values in anchors[:2]]
