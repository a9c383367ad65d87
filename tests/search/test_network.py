"""A node that is cut off the network: it lives in a network namespace, and its cable is pulled."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from clusters import done, events, on, ray_start, searched
from drivers import live, until

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and iproute2")]
HERE, THERE, CABLE, FAR, PORT = "10.77.0.1", "10.77.0.2", "pared0", "pared-far", 6399


def ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True)


@pytest.fixture
def far(no_token: None) -> Iterator[psutil.Process]:
    """The node at the other end of the cable, in a cluster of two."""
    inside = ("netns", "exec", FAR, "ip")
    with contextlib.ExitStack() as ends:
        ip("netns", "add", FAR)
        ends.callback(ip, "netns", "del", FAR)  # takes the cable with it
        ip("link", "add", CABLE, "type", "veth", "peer", "name", "far0", "netns", FAR)
        ip("addr", "add", f"{HERE}/24", "dev", CABLE)
        ip("link", "set", CABLE, "up")
        ip(*inside, "addr", "add", f"{THERE}/24", "dev", "far0")
        ip(*inside, "link", "set", "far0", "up")
        ip(*inside, "link", "set", "lo", "up")
        common = ("--num-cpus=1", "--include-dashboard=false")
        ends.enter_context(ray_start("--head", f"--node-ip-address={HERE}", f"--port={PORT}", *common))
        yield ends.enter_context(ray_start(f"--address={HERE}:{PORT}", f"--node-ip-address={THERE}", *common[:1],
                                           before=("ip", *inside[:-1])))


def test_a_node_that_is_cut_off_loses_its_trials_and_is_used_again_later(
        far: psutil.Process, tmp_path: Path) -> None:
    driver, run = searched(tmp_path, f"{HERE}:{PORT}", 6)
    until(lambda: on(far, run))
    assert live(run)["workers"] == 2
    ip("link", "set", CABLE, "down")
    cut = time.time()
    fault = until(lambda: events(run, "fault"), 60)[0]
    assert fault["kind"] == "lost" and fault["time"] - cut < 30
    until(lambda: live(run)["silent_nodes"] or live(run)["workers"] == 1, 10)
    ip("link", "set", CABLE, "up")
    done(driver, run, 6)
