import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pared.evaluators import latency
from pared.evaluators.export import export
from pared.evaluators.lane import Lane
from pared.evaluators.measurement import Measurement
from pared.hardware_profiles.load import load

SETTINGS = load("host-cpu").runtime
IMAGE = (np.random.default_rng(0).normal(size=(2, 8, 32, 32)).astype(np.float32),)


def net(depth: int) -> bytes:
    torch.manual_seed(0)
    layers = [m for _ in range(depth) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    return export(nn.Sequential(*layers).eval(), (IMAGE[0],)).SerializeToString()


@pytest.mark.slow
def test_the_ratio_of_a_file_to_itself_is_one_and_to_one_twice_as_deep_about_half() -> None:
    shallow, deep = net(8), net(16)
    same = latency.compare(deep, deep, IMAGE, SETTINGS, Lane(), latency.THOROUGH)
    half = latency.compare(shallow, deep, IMAGE, SETTINGS, Lane(), latency.THOROUGH)
    assert same.ratio == pytest.approx(1, abs=0.1)
    assert half.ratio == pytest.approx(0.5, abs=0.1)
    assert half.latency_ms < half.reference_ms and half.spread > 0 and half.pairs >= 100


def test_settled_means_calm_and_mostly_undisturbed() -> None:
    timing = latency.Timing(1.0, 2.0, 0.5, spread=0.01, p95_ms=1.1, clean=0.95, pairs=240)
    assert timing.settled
    assert not latency.Timing(1.0, 2.0, 0.5, spread=0.03, p95_ms=1.1, clean=0.95, pairs=240).settled
    assert not latency.Timing(1.0, 2.0, 0.5, spread=0.01, p95_ms=1.1, clean=0.5, pairs=240).settled
    assert not latency.Timing(1.0, 2.0, 0.5, spread=0.01, p95_ms=1.1, clean=0.95, pairs=240, others=0.3).settled


def test_a_slow_model_is_measured_in_fewer_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "ATTEMPT_S", 0.2)
    timing = latency._timed(lambda: time.sleep(0.002), lambda: time.sleep(0.004), 60, False)
    assert timing and timing.pairs == latency.BLOCKS * latency.FEWEST
    assert timing.ratio == pytest.approx(0.5, abs=0.1)


def test_a_figure_that_is_not_finite_is_no_measurement() -> None:
    from pared.errors import MetricError

    with pytest.raises(MetricError):
        Measurement(float("nan"), "ms", "measured")


def hold(folder: Path, started, seconds: float) -> None:
    with Lane(folder).working() as turn:
        started.set()
        end = time.time() + seconds
        while time.time() < end:
            turn.step_aside()
            time.sleep(0.01)


def crash(folder: Path, started) -> None:
    turn = Lane(folder).working()
    turn.__enter__()
    started.set()
    time.sleep(60)


@pytest.mark.slow
def test_workers_stand_aside_while_a_measurement_has_the_lane(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = [context.Event(), context.Event()]
    workers = [context.Process(target=hold, args=(tmp_path, event, 6)) for event in started]
    for worker in workers:
        worker.start()
    for event in started:
        assert event.wait(20)
    asked = time.time()
    with Lane(tmp_path).quiet():
        assert time.time() - asked < 2, "the workers did not step aside"
        began = time.time()
        with pytest.raises(BlockingIOError):  # a worker is kept out meanwhile
            import fcntl

            with (tmp_path / "floor").open() as floor:
                fcntl.flock(floor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert time.time() - began < 1
    for worker in workers:
        worker.join(20)
        assert worker.exitcode == 0


def test_a_killed_worker_does_not_block_the_lane(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    worker = context.Process(target=crash, args=(tmp_path, started))
    worker.start()
    assert started.wait(20)
    worker.kill()
    asked = time.time()
    with Lane(tmp_path).quiet():
        assert time.time() - asked < 5
    worker.join()


def spin(seconds: float) -> None:
    end = time.time() + seconds
    while time.time() < end:
        pass


@pytest.mark.slow
def test_a_stranger_who_works_meanwhile_makes_a_reading_unstable() -> None:
    """However calm it looks: he does not stand aside, and shares the caches."""
    file = net(8)
    strangers = [multiprocessing.get_context("spawn").Process(target=spin, args=(60,)) for _ in range(2)]
    for stranger in strangers:
        stranger.start()
    try:
        time.sleep(2)  # they start Python
        timing = latency.compare(file, file, IMAGE, SETTINGS, Lane(), latency.THOROUGH)
    finally:
        for stranger in strangers:
            stranger.kill()
    assert timing.others > latency.CROWDED and not timing.settled


def test_what_counts_is_when_the_reference_ran_as_fast_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """A neighbour below the hypervisor comes for some blocks, and slows the candidate more than the reference."""
    walls = iter(wall for i in range(latency.BLOCKS) for _ in range(5) for wall in ([0.14, 0.23] if i % 3 else [0.20, 0.27]))
    monkeypatch.setattr(latency, "_pair", lambda *sides: (next(walls), next(walls)))
    monkeypatch.setattr(latency, "_affordable", lambda pairs, sides: pairs)
    timing = latency._timed(lambda: None, lambda: None, 5, False)
    assert timing and timing.ratio == pytest.approx(0.14 / 0.23) and timing.spread < 1e-9
    assert (timing.latency_ms, timing.reference_ms) == pytest.approx((0.14, 0.23))


def test_a_reading_whose_reference_was_slower_than_before_is_unstable() -> None:
    """However calm: the neighbour was there all the time."""
    file = net(8)
    best = latency.compare(file, file, IMAGE, SETTINGS, Lane(), (20,)).reference_ms
    assert latency.compare(file, file, IMAGE, SETTINGS, Lane(), (20,), known_ms=best / 2).slowed > latency.AT_BEST
