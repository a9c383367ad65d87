"""Memory that runs out: of a node, and of its object store."""

from pathlib import Path

import psutil
import pytest
from clusters import events, nodes, searched
from helpers import TINY

import pared

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("no_token")]
LARGE = TINY.parent / "large.py"


def test_a_trial_that_needs_more_memory_than_there_is_fails_after_a_second_try_and_the_search_goes_on(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + 5e9) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{threshold:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    with nodes(2) as cluster:
        driver, run = searched(tmp_path, cluster.address, 5, model=f"{LARGE}:leaking")
        told = driver.communicate(timeout=300)[1]
    assert driver.returncode == 0, told
    ended = events(run, "ended")
    failed = [event["reason"] for event in ended if event["state"] == "failed"]
    assert failed and all("memory" in reason and "also with twice" in reason for reason in failed), failed
    assert {e["kind"] for e in events(run, "fault")} == {"memory"}
    assert len(ended) == 5 and len(pared.open_run(run).candidates) >= 3


def test_data_beyond_the_object_store(tmp_path: Path) -> None:
    with nodes(2, object_store_memory=80_000_000) as cluster:
        driver, run = searched(tmp_path, cluster.address, 3, model=f"{LARGE}:much_data", space={"prune": False})
        told = driver.communicate(timeout=300)[1]
    assert driver.returncode == 0, told
    assert pared.open_run(run).counts().complete == 3, told
