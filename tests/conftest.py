"""Shared by all tests: the tiny trained subject, one finished search, and the command line."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "subjects" / "tiny.py"
SHARED = ROOT.parent / "shared"

Pared = Callable[..., subprocess.CompletedProcess[str]]


def load_tiny() -> Any:
    if "tiny" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tiny", TINY)
        assert spec and spec.loader
        sys.modules["tiny"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["tiny"])
    return sys.modules["tiny"]


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The module tests/subjects/tiny.py."""
    return load_tiny()


@pytest.fixture(scope="session")
def subject(tiny: Any) -> Any:
    return tiny.subject()


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "pared", *map(str, args)]


@pytest.fixture(scope="session")
def pared_cli() -> Pared:
    """Runs the command line in a process of its own."""

    def run(*args: object, timeout: float = 300, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*args), capture_output=True, text=True, timeout=timeout, **kwargs)

    return run


def write_run_file(folder: Path, **changes: Any) -> Path:
    """A small run of the tiny subject: few epochs, few trials."""
    fields: dict[str, Any] = {
        "model": f"{TINY}:subject",
        "space": {"recover": {"epochs": 1}},
        "search": {"trials": 12, "seed": 0},
        "cluster": {"workers": 2},
    }
    for key, value in changes.items():
        fields[key] = {**fields[key], **value} if key in fields and key != "model" else value
    path = folder / "run.yaml"
    path.write_text(json.dumps(fields))  # JSON is YAML
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, pared_cli: Pared) -> Path:
    """A run of 14 trials on real Ray, through the command line; many tests read it."""
    folder = tmp_path_factory.mktemp("finished")
    run_file = write_run_file(folder, search={"trials": 14}, max_accuracy_drop=0.05)
    result = pared_cli("search", run_file, "--out", folder / "run")
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
