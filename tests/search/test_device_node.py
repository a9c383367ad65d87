"""A device that is a node of the cluster: no trial runs there, measurements run nowhere else."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from clusters import ray_start
from helpers import write_run_file

import pared

pytestmark = [pytest.mark.slow, pytest.mark.ray]

PORT = 46479


@pytest.fixture
def cluster(no_token: None) -> Iterator[str]:
    """One node that works."""
    with ray_start("--head", f"--port={PORT}", "--num-cpus=2", "--include-dashboard=false"):
        yield f"127.0.0.1:{PORT}"


def on_the_board(folder: Path) -> Path:
    """The run file of a search whose latencies come from the node with `device:board`."""
    (folder / "board.yaml").write_text(yaml.safe_dump(
        {"extends": "host-cpu", "name": "board", "backend": {"kind": "node", "resource": "device:board"}}))
    return write_run_file(folder, profiles=["board.yaml"], search={"trials": 3}, space={"prune": False})


def test_latencies_come_from_the_node_that_has_the_device(tmp_path: Path, pared_cli, cluster: str) -> None:
    run_file = on_the_board(tmp_path)
    told = pared_cli("search", run_file, "--out", tmp_path / "run", "--address", cluster)
    assert told.returncode == 2 and "--num-cpus=0" in told.stderr and "device:board" in told.stderr
    assert not (tmp_path / "run").exists()
    with ray_start(f"--address={cluster}", "--num-cpus=0", '--resources={"device:board": 1}'):
        done = pared_cli("search", run_file, "--out", tmp_path / "run", "--address", cluster)
    assert done.returncode == 0, done.stderr
    run = pared.open_run(tmp_path / "run")
    assert run.config.names == ("board",) and (tmp_path / "run" / "profiles" / "board.yaml").exists()
    assert len(run.candidates) == 3
    assert all(c.latency("board").evidence == "measured" for c in run.candidates)


def test_latencies_come_from_a_command_on_a_device(tmp_path: Path, pared_cli) -> None:
    """The script that comes with pared, run as on a board: it imports nothing of pared."""
    command = [sys.executable, "{script}", "{file}", "--threads", "{threads}", "--runs", "{runs}"]
    (tmp_path / "board.yaml").write_text(yaml.safe_dump(
        {"extends": "host-cpu", "name": "board", "backend": {
            "kind": "command", "transport": "local", "folder": str(tmp_path / "device"), "command": command}}))
    run_file = write_run_file(tmp_path, profiles=["board.yaml"], search={"trials": 3}, space={"prune": False})
    done = pared_cli("search", run_file, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    run = pared.open_run(tmp_path / "run")
    # On a busy machine the reference may move: such a candidate has a reason in place of a latency.
    assert all(c.runs_on(["board"]) or "moved" in c.absent["board"] for c in run.candidates)
    assert run.candidates and {p.suffix for p in (tmp_path / "device").iterdir()} >= {".onnx", ".py"}
