"""Killed workers, killed drivers, deadlines: nothing is lost, nothing is counted twice."""

import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from drivers import ended, ends, started, until, working
from helpers import ALONE, PATIENT, write_run_file

import pared
from pared.search import study as book
from pared.search.journal import NAME

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_driver_killed_twice_worker_killed_once_nothing_is_lost(tmp_path: Path, pared_cli) -> None:
    run = tmp_path / "run"
    driver = started("search", write_run_file(tmp_path, model=f"{PATIENT}:subject", search={"trials": 12}, cluster={**ALONE, "workers": 2}), "--out", run)
    until(lambda: ended(run, 2))
    victim = until(lambda: working(run))[0]
    os.kill(victim["pid"], signal.SIGKILL)
    until(lambda: ended(run, 4))
    before = [t.number for t in pared.open_run(run).trials]
    driver.kill()
    driver.communicate()

    with (run / NAME).open("ab") as journal:
        journal.write(b'{"op_code":4,"worker')  # as a driver killed in mid-append leaves it
    status = json.loads(pared_cli("status", run, "--json").stdout)
    assert status["driver"]["alive"] is False and status["counts"]["complete"] >= 1

    second = started("resume", run)
    until(lambda: ended(run, 7))
    refused = pared_cli("resume", run)
    assert refused.returncode == 2 and f"pid {second.pid}" in refused.stderr
    second.kill()
    second.communicate()

    last = pared_cli("resume", run, "--json")
    assert last.returncode == 0, last.stderr
    finished = pared.open_run(run)
    assert finished.counts().asked == 12
    assert finished.counts().complete + finished.counts().failed == 12 and finished.counts().running == 0
    assert {t.number for t in finished.trials} >= set(before)
    digests = [t.user_attrs[book.DIGEST] for t in finished.trials]
    assert len(set(digests)) == 12, "a recipe was counted twice"
    assert set(ends(run).values()) == {1}, "a trial was ended twice"


def test_a_run_killed_before_its_first_trial_is_resumed(tmp_path: Path, pared_cli) -> None:
    run = tmp_path / "run"
    run_file = write_run_file(tmp_path, space={"prune": False}, search={"trials": 2})
    driver = started("search", run_file, "--out", run)
    until(lambda: (run / "run.yaml").exists())
    driver.kill()
    driver.communicate()
    assert not (run / NAME).exists()
    done = pared_cli("resume", run)
    assert done.returncode == 0, done.stderr
    assert pared.open_run(run).counts().complete == 2


def test_a_worker_that_is_always_killed_fails_its_trial_after_the_last_attempt(tmp_path: Path) -> None:
    run = tmp_path / "run"
    slow = write_run_file(tmp_path, space={"recover": {"epochs": 8}, "prune": {"ratio": 0.5}},
                          search={"trials": 5, "max_attempts": 2}, cluster={**ALONE, "workers": 1})
    driver = started("search", slow, "--out", run)
    killed = set()

    def kill_training() -> bool:
        for row in working(run):
            if row["doing"].startswith("training") and row["pid"] not in killed:
                killed.add(row["pid"])
                os.kill(row["pid"], signal.SIGKILL)
        return driver.poll() is not None

    until(kill_training, 180)
    failed = [t for t in pared.open_run(run).trials if t.state.name == "FAIL"]
    assert failed and all("2 attempts" in t.user_attrs["outcome"]["reason"] for t in failed)
    assert len(pared.open_run(run).candidates) >= 3, "the search went on"


def test_a_trial_past_its_deadline_is_stopped_and_recorded(tmp_path: Path, pared_cli) -> None:
    run_file = write_run_file(
        tmp_path, model=f"{Path(__file__).parent.parent}/subjects/slow.py:subject",
        search={"trials": 4, "trial_timeout": 20}, cluster={**ALONE, "workers": 1})
    result = pared_cli("search", run_file, "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    run = pared.open_run(tmp_path / "run")
    reasons = {t.user_attrs["outcome"]["reason"] for t in run.trials if t.state.name == "FAIL"}
    assert reasons == {"stopped after its deadline of 20 s"}
    assert len(run.candidates) == 3


def test_a_disk_that_fills_stops_the_run_with_a_message_and_resume_goes_on(
        tmp_path: Path, pared_cli) -> None:
    run = tmp_path / "run"
    run_file = write_run_file(tmp_path, space={"prune": False}, search={"trials": 4})
    driver = started("search", run_file, "--out", run, stderr=subprocess.PIPE)
    until(lambda: ended(run, 1))
    full = (run / NAME).stat().st_size + 500
    resource.prlimit(driver.pid, resource.RLIMIT_FSIZE, (full, full))
    told = driver.communicate(timeout=120)[1]
    assert driver.returncode == 2 and "cannot write the journal" in told and "pared resume" in told, told
    assert "Traceback" not in told
    before = len(pared.open_run(run).candidates)
    assert before >= 1
    assert pared_cli("resume", run).returncode == 0
    finished = pared.open_run(run)
    assert finished.counts().asked == 4 and set(ends(run).values()) == {1}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that holds the untouched model and little more."""
    if os.getuid() != 0:
        pytest.skip("mounting a file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_store_that_fills_stops_the_run_with_a_message_and_resume_goes_on(
        tmp_path: Path, small_disk: Path, pared_cli) -> None:
    run_file = write_run_file(tmp_path, space={"prune": False}, search={"trials": 5},
                              cluster={**ALONE, "store": str(small_disk / "store")})
    full = pared_cli("search", run_file, "--out", tmp_path / "run")
    assert full.returncode == 2 and "No space left" in full.stderr and "pared resume" in full.stderr, full.stderr
    assert "Traceback" not in full.stderr
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    resumed = pared_cli("resume", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    finished = pared.open_run(tmp_path / "run")
    assert finished.counts().complete == 5 and set(ends(tmp_path / "run").values()) == {1}
    assert all((small_disk / "store" / "artifacts" / f"{c.sha256}.onnx").stat().st_size for c in finished.candidates)


def test_an_unwritable_place_is_refused(tmp_path: Path, pared_cli) -> None:
    (tmp_path / "file").write_text("")
    result = pared_cli("search", write_run_file(tmp_path), "--out", tmp_path / "file" / "run")
    assert result.returncode == 2 and "cannot write" in result.stderr
