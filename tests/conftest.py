"""Shared by all tests: the tiny trained subject, one finished search, and the command line."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ALONE, S3, command, load_tiny, write_run_file

# What one session keeps for its runs is not the user's. Two sessions side by side do not wait for one another to
# measure: a lane is a folder among the temporary ones. Ray and Chromium have sockets there, whose paths must be short.
os.environ.setdefault("RAY_TMPDIR", tempfile.gettempdir())
os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="pared-tests-", dir=os.environ["RAY_TMPDIR"])
os.environ["XDG_CACHE_HOME"] = os.path.join(tempfile.tempdir, "cache")
os.chmod(tempfile.tempdir, 0o755)  # PostgreSQL, which is another user where this one is root, comes in as well

Pared = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The module tests/subjects/tiny.py."""
    return load_tiny()


@pytest.fixture(scope="session")
def subject(tiny: Any) -> Any:
    return tiny.subject()


@pytest.fixture(scope="session")
def pared_cli() -> Pared:
    """Runs the command line in a process of its own."""

    def run(*args: object, timeout: float = 300, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*args), capture_output=True, text=True, timeout=timeout, **kwargs)

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, pared_cli: Pared) -> Path:
    """A run of 12 trials on real Ray, through the command line; many tests read it."""
    folder = tmp_path_factory.mktemp("finished")
    run_file = write_run_file(folder, profiles=["host-cpu"], search={"trials": 12}, max_accuracy_drop=0.05,
                              cluster=ALONE)
    result = pared_cli("search", run_file, "--out", folder / "run")
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """For clusters that ask for none; an earlier local one may have left a token."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3-compatible server on loopback, for this process and all that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        server = S3()
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.make_bucket()
        yield server
        server.stop()
