"""A device over ssh: a real sshd on the loopback, with keys of its own and strict host-key checking."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import free_port

from pared.errors import ConfigError, MetricError
from pared.evaluators.devices import device
from pared.hardware_profiles.backend import Command
from pared.hardware_profiles.load import load
from pared.hardware_profiles.profile import HardwareProfile

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(not (SSHD and shutil.which("ssh") and shutil.which("ssh-keygen")),
                                reason="no sshd here: apt-get install openssh-server")
CONF = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""
ANSWER = 'import json, sys; print(json.dumps({"latency_ms": 1.5, "runtime": sys.argv[2]}))'


@dataclass(frozen=True)
class Server:
    port: int
    folder: Path

    def profile(self, known_hosts: str = "known_hosts", port: int | None = None, word: str = "x") -> HardwareProfile:
        """A profile of the device; `word` is an argument of the measuring command."""
        backend = Command(
            transport="ssh", host=f"{getpass.getuser()}@127.0.0.1", port=port or self.port, timeout_s=5,
            options=("-F", "none", "-i", f"{self.folder}/user", "-o", "IdentitiesOnly=yes",
                     "-o", f"UserKnownHostsFile={self.folder}/{known_hosts}", "-o", "StrictHostKeyChecking=yes"),
            folder=f"{self.folder}/a device", command=(sys.executable, "-c", ANSWER, "{file}", word))
        return load("host-cpu").model_copy(update={"backend": backend})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    made = Server(free_port(), folder)
    for file, key in (("known_hosts", "host"), ("wrong_hosts", "other")):
        public = " ".join((folder / f"{key}.pub").read_text().split()[:2])
        (folder / file).write_text(f"[127.0.0.1]:{made.port} {public}\n")
    (folder / "unknown_hosts").write_text("")
    (folder / "conf").write_text(CONF.format(port=made.port, folder=folder))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it when it is started by root
    assert SSHD is not None
    log = (folder / "log").open("w")
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "conf")], stderr=log)
    try:
        wait_for(made, process)
        yield made
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def wait_for(server: Server, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", server.port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    pytest.skip(f"sshd does not start here: {(server.folder / 'log').read_text()[-300:]}")


@pytest.mark.slow
def test_a_device_is_measured_over_ssh(server: Server) -> None:
    odd = "two words, $HOME, \"'; and {"
    told = device(server.profile(word=odd))
    told.check()
    reading = told.read(b"file" * 100_000, b"reference\0\n", (), (20, 40))
    assert (reading.latency_ms, reading.ratio) == (1.5, 1.0)
    assert reading.notes == (f"runtime: {odd}",)
    assert len(list((server.folder / "a device").glob("*.onnx"))) == 2


def test_a_host_is_refused_when_its_key_is_not_the_known_one(server: Server) -> None:
    for known in ("wrong_hosts", "unknown_hosts"):
        told = device(server.profile(known))
        with pytest.raises(ConfigError, match=r"cannot reach .*Host key verification failed"):
            told.check()
        with pytest.raises(MetricError, match="Host key verification failed"):
            told.read(b"file", b"reference", (), (20,))


def test_a_host_is_refused_when_nobody_listens(server: Server) -> None:
    with pytest.raises(ConfigError, match="profile host-cpu: cannot reach .*Connection refused"):
        device(server.profile(port=free_port())).check()
