"""Ray clusters of several nodes on one machine, and searches on them."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from drivers import started, working
from helpers import ALONE, PATIENT, write_run_file
from ray.cluster_utils import Cluster

import pared

RAY = [sys.executable, "-m", "ray.scripts.scripts"]  # the command `ray` of this environment


@contextlib.contextmanager
def nodes(*cpus: int, **head: Any) -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], **head})
    try:
        for count in cpus[1:]:
            cluster.add_node(num_cpus=count)
        yield cluster
    finally:  # not `shutdown`, which asks the head to drain each node, and waits a minute for one that is dead
        for node in cluster.list_all_nodes():
            node.kill_all_processes(check_alive=False, allow_graceful=False)


@contextlib.contextmanager
def ray_start(*options: str, before: tuple[str, ...] = ()) -> Iterator[psutil.Process]:
    """A node as the command `ray start` makes it, for as long as the context lasts."""
    command = [*before, *RAY, "start", "--block", "--disable-usage-stats", *options]
    with psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            told = ""
            while "runtime started" not in told:
                line = process.stdout.readline()
                assert line, told
                told += line
            yield process
        finally:
            for each in family(process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()


def raylets(cluster: Cluster) -> list[psutil.Process]:
    """Of the nodes beside the head."""
    return [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in cluster.worker_nodes]


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def events(run: Path, name: str = "") -> list[dict[str, Any]]:
    try:
        lines = (run / "events.jsonl").read_text().splitlines()
    except OSError:
        return []
    found = [json.loads(line) for line in lines]
    return [event for event in found if event["event"] == name or not name]


def pids(run: Path) -> set[int]:
    return {row["pid"] for row in working(run)}


def workers_of(raylet: psutil.Process) -> set[int]:
    """Pids of all that runs on its node; none where it is dead."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return {child.pid for child in raylet.children(recursive=True)}
    return set()


def on(raylet: psutil.Process, run: Path) -> bool:
    """Whether a trial runs on the node of that raylet."""
    return bool(pids(run) & workers_of(raylet))


def done(driver: subprocess.Popen[str], run: Path, trials: int, seconds: float = 300) -> None:
    told = driver.communicate(timeout=seconds)[1]
    assert driver.returncode == 0, told
    counts = pared.open_run(run).counts()
    assert counts.complete + counts.failed == trials and not counts.running, (counts, told)
    reasons = [event["reason"] for event in events(run, "ended") if event["state"] == "failed"]
    assert not [reason for reason in reasons if "node" in reason or "attempts" in reason], reasons
    numbers = [event["trial"] for event in events(run, "ended")]
    assert len(numbers) == len(set(numbers)) == trials, "a trial was ended twice, or never"


def searched(folder: Path, address: str, trials: int, **changes: Any) -> tuple[subprocess.Popen[str], Path]:
    """A search on a cluster whose nodes know nothing of the model's code. Trials take seconds."""
    fields = {"model": f"{PATIENT}:subject", "search": {"trials": trials},
              "cluster": {**ALONE, "workers": None, "address": address}}
    run_file = write_run_file(folder, **{**fields, **changes})
    return started("search", run_file, "--out", folder / "run", stderr=subprocess.PIPE), folder / "run"
