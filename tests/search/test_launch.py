"""The ways into a cluster that asks for a token: `ray job submit`, and Ray Client from outside."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import RAY, ray_start
from helpers import ALONE, command, write_run_file

import pared

pytestmark = [pytest.mark.slow, pytest.mark.ray]
PORT, PAGE, CLIENTS = 46380, 46381, 46382


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of those who may use the cluster."""
    secret = tmp_path_factory.mktemp("auth") / "token"
    secret.write_text("0123456789abcdef" * 4)
    # Not where other clusters of this machine are: a job would take the address of the latest of them.
    apart = tempfile.TemporaryDirectory(prefix="ray-", dir=os.environ["RAY_TMPDIR"], ignore_cleanup_errors=True)
    with apart as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(secret))
        with ray_start("--head", f"--port={PORT}", f"--temp-dir={home}", "--num-cpus=2", f"--dashboard-port={PAGE}",
                       f"--ray-client-server-port={CLIENTS}"):
            yield dict(os.environ)


def small(folder: Path) -> Path:
    return write_run_file(folder, profiles=["host-cpu"], search={"trials": 2}, space={"prune": False}, cluster={**ALONE, "workers": None})


def test_whoever_has_no_token_is_told_and_nothing_is_written(token: dict[str, str], tmp_path: Path, pared_cli) -> None:
    (tmp_path / "wrong").write_text("fedcba9876543210" * 4)
    strange = {**token, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}
    told = pared_cli("search", small(tmp_path), "--out", tmp_path / "run", "--address", f"127.0.0.1:{PORT}", env=strange)
    assert told.returncode == 2 and "RAY_AUTH_MODE=token" in told.stderr, told.stderr
    assert "Traceback" not in told.stderr and not (tmp_path / "run").exists()
    assert "0123456789abcdef" not in told.stderr and "fedcba9876543210" not in told.stderr


def test_a_search_is_submitted_as_a_job(token: dict[str, str], tmp_path: Path) -> None:
    search = command("search", small(tmp_path).name, "--out", tmp_path / "run", "--address", "auto")
    told = subprocess.run(
        [*RAY, "job", "submit", "--address", f"http://127.0.0.1:{PAGE}",
         "--working-dir", str(tmp_path), "--", *search], capture_output=True, text=True, timeout=300, env=token)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "pared: finished complete=2 refused=0 failed=0" in told.stdout + told.stderr
    assert pared.open_run(tmp_path / "run").counts().complete == 2


def test_a_search_from_outside_the_cluster(token: dict[str, str], tmp_path: Path, pared_cli) -> None:
    told = pared_cli("search", small(tmp_path), "--out", tmp_path / "run", "--address", f"ray://127.0.0.1:{CLIENTS}",
                     env=token)
    assert told.returncode == 0, told.stderr
    assert pared.open_run(tmp_path / "run").counts().complete == 2
    status = json.loads(pared_cli("status", tmp_path / "run", "--json").stdout)
    assert status["driver"]["alive"] is False
