"""Several nodes: code that travels, nodes that die, freeze, leave and join, a head that goes away."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from clusters import RAY, done, events, family, nodes, on, pids, raylets, searched, workers_of
from drivers import live, started, until, working
from helpers import ALONE, TINY, free_port, write_run_file

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("no_token")]


def test_a_node_dies_another_joins_and_the_search_goes_on(tmp_path: Path) -> None:
    with nodes(1, 1) as cluster:
        driver, run = searched(tmp_path, cluster.address, 8)
        victim = raylets(cluster)[0]
        until(lambda: on(victim, run))
        assert live(run)["workers"] == 2
        victim.kill()
        killed = time.time()
        fault = until(lambda: events(run, "fault"))[0]
        assert fault["kind"] == "lost" and fault["time"] - killed < 3
        until(lambda: live(run).get("workers") == 1, 20)
        cluster.add_node(num_cpus=2)
        until(lambda: live(run).get("workers") == 3, 20)
        until(lambda: len(pids(run)) == 3 or driver.poll() is not None, 60)
        done(driver, run, 8)
        again = [e for e in events(run, "started") if e["trial"] == fault["trial"]]
        assert [e["attempt"] for e in again] == [1, 1], "the death of its node was held against the trial"


def test_a_training_that_outlives_its_node_is_not_waited_for(tmp_path: Path) -> None:
    """It hangs, so that its worker does not see that the node is dead, and keeps its connection."""
    with nodes(1, 1) as cluster:
        driver, run = searched(tmp_path, cluster.address, 6, model=f"{TINY.parent}/slow.py:subject")
        victim = raylets(cluster)[0]
        row = until(lambda: next((r for r in working(run) if r["doing"] == "training" and r["pid"] in workers_of(victim)), None))
        victim.kill()
        killed = time.time()
        fault = until(lambda: events(run, "fault"), 20)[0]
        assert (fault["kind"], fault["trial"]) == ("lost", row["trial"]) and fault["time"] - killed < 3
        assert psutil.pid_exists(row["pid"]), "nothing outlived its node: the test is about nothing"
        driver.kill()
        driver.communicate()
        psutil.Process(row["pid"]).kill()


def test_a_node_that_gets_notice_takes_no_new_trials_and_what_it_cannot_end_runs_elsewhere(tmp_path: Path) -> None:
    with nodes(1, 1) as cluster:
        driver, run = searched(tmp_path, cluster.address, 6)
        victim, node = raylets(cluster)[0], next(iter(cluster.worker_nodes))
        until(lambda: on(victim, run))
        notice = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "4")
        subprocess.run([*RAY, "drain-node", "--address", cluster.address,
                        "--node-id", node.node_id, *notice], check=True, capture_output=True)
        until(lambda: live(run)["workers"] == 1, 10)
        time.sleep(4)
        victim.kill()
        done(driver, run, 6)
        assert all(event["attempt"] == 1 for event in events(run, "started")), "the notice was held against a trial"


def test_a_node_that_freezes_loses_its_trials_and_what_it_says_later_is_ignored(tmp_path: Path) -> None:
    with nodes(1, 1) as cluster:
        driver, run = searched(tmp_path, cluster.address, 6)
        victim = raylets(cluster)[0]
        until(lambda: on(victim, run))
        frozen = family(victim)
        for process in frozen:
            process.suspend()
        stopped = time.time()
        try:
            fault = until(lambda: events(run, "fault"), 60)[0]
            assert "does not answer" in fault["reason"] and fault["time"] - stopped < 30
            until(lambda: live(run)["silent_nodes"], 10)
        finally:
            for process in frozen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
        done(driver, run, 6)


def test_the_head_goes_away_and_the_run_is_resumed_elsewhere(tmp_path: Path, pared_cli) -> None:
    with nodes(2) as cluster:
        driver, run = searched(tmp_path, cluster.address, 6)
        until(lambda: len(events(run, "ended")) >= 2)
        known = {event["trial"] for event in events(run, "ended")}
        for process in family(psutil.Process(cluster.head_node.all_processes["gcs_server"][0].process.pid)):
            process.kill()
        cluster.head_node.kill_raylet()
        told = driver.communicate(timeout=120)[1]
        assert driver.returncode not in (0, None)
        assert "Traceback" not in told and "pared resume" in told, told
    assert pared_cli("resume", run, "--address", "local").returncode == 0
    ended = [event["trial"] for event in events(run, "ended")]
    assert len(ended) == len(set(ended)) == 6 and known <= set(ended)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """Where a head keeps its state, to be started again with it."""
    if not (server := shutil.which("redis-server")):
        pytest.skip("no Redis on this machine")
    port = free_port()
    with subprocess.Popen([server, "--port", str(port), "--save", "", "--dir", tmp_path], stdout=subprocess.DEVNULL) as process:
        yield f"127.0.0.1:{port}"
        process.kill()


def test_a_head_that_is_started_again_with_its_state_is_waited_for(
        redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_REDIS_ADDRESS", redis)
    with nodes(2) as cluster:
        driver, run = searched(tmp_path, cluster.address, 6)
        until(lambda: len(events(run, "ended")) >= 2)
        cluster.head_node.kill_gcs_server()
        time.sleep(5)
        cluster.head_node.start_gcs_server()
        done(driver, run, 6)
    assert len(events(run, "driver started")) == 1


def test_a_driver_that_is_told_to_go_goes_and_can_be_resumed(tmp_path: Path, pared_cli) -> None:
    run_file = write_run_file(tmp_path, search={"trials": 5}, cluster=ALONE)
    driver = started("search", run_file, "--out", tmp_path / "run", stderr=subprocess.PIPE)
    until(lambda: len(events(tmp_path / "run", "ended")) >= 1)
    os.kill(driver.pid, signal.SIGTERM)
    told = driver.communicate(timeout=60)[1]
    assert driver.returncode == 143, (driver.returncode, told)
    assert "pared resume" in told and "Traceback" not in told
    result = pared_cli("resume", tmp_path / "run")
    assert result.returncode == 0
    last = result.stderr.splitlines()[-1]
    assert last.startswith("pared: finished complete=5 refused=0 failed=0 front="), last


def test_the_device_of_a_profile_goes_away_in_the_middle_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(json.dumps(
        {"extends": "host-cpu", "name": "lab", "backend": {"kind": "node", "resource": "device:lab"}}))
    with nodes(2) as cluster:
        first = cluster.add_node(num_cpus=0, resources={"device:lab": 1})
        driver, run = searched(tmp_path, cluster.address, 4, profiles=["lab.yaml"])
        until(lambda: live(run).get("queues", {}).get("lab"))
        cluster.remove_node(first, allow_graceful=False)
        time.sleep(3)
        cluster.add_node(num_cpus=0, resources={"device:lab": 1})
        done(driver, run, 4)


def test_more_than_any_node_has_is_told_at_once(pared_cli, tmp_path: Path) -> None:
    run_file = write_run_file(tmp_path, cluster={"train": {"cpus": 1, "gpus": 2, "memory": "4GB"}})
    result = pared_cli("search", run_file, "--out", tmp_path / "run")
    assert result.returncode == 2 and not (tmp_path / "run").exists()
    assert "cluster.train asks for 1 CPUs, 2 GPUs, 4.0 GB; the largest node has 1 CPUs" in result.stderr
