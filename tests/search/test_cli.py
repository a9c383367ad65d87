"""Bad input through the real command line: exit code 2, one message, no traceback, nothing written."""

import json
import time
from pathlib import Path

import pytest
from helpers import TINY, write_run_file


def refused(result, *told: str) -> None:
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr and result.stdout == ""
    for part in told:
        assert part in result.stderr


@pytest.mark.parametrize(("changes", "told"), [
    ({"profiles": ["hots-cpu"]}, "did you mean 'host-cpu'"),
    ({"serach": {}}, "did you mean 'search'"),
    ({"profiles": ["host-cpu"], "budgets": {"host-cpu": {"latency": "quick"}}}, "cannot be read"),
    ({"model": "./nowhere.py:subject"}, "there is no file"),
    ({"model": f"{TINY}:subjekt"}, "has no 'subjekt'"),
])
def test_wrong_run_files_are_refused_before_anything_starts(pared_cli, tmp_path, changes, told) -> None:
    run_file = write_run_file(tmp_path, **changes)
    refused(pared_cli("search", run_file, "--out", tmp_path / "run"), told)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_commands_on_what_is_no_run_are_refused(pared_cli, tmp_path: Path) -> None:
    for name in ("front", "pick", "status", "verify", "report", "resume"):
        refused(pared_cli(name, tmp_path), "is not a run")
    refused(pared_cli("profiles", "rpi99"), "unknown profile")
    assert pared_cli("search").returncode == 2


def test_help_is_quick(pared_cli) -> None:
    took = []
    for _ in range(3):
        began = time.perf_counter()
        assert pared_cli("--help").returncode == 0
        took.append(time.perf_counter() - began)
    assert min(took) < 1.0  # 0.3 s on a quiet machine


def test_init_writes_a_start_and_never_overwrites(pared_cli, tmp_path: Path) -> None:
    assert pared_cli("init", tmp_path / "mine").returncode == 0
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {"run.yaml", "subject.py"}
    (tmp_path / "mine" / "run.yaml").write_text("mine")
    refused(pared_cli("init", tmp_path / "mine"), "exists already")
    assert (tmp_path / "mine" / "run.yaml").read_text() == "mine"


def test_profiles_and_doctor_speak_json(pared_cli) -> None:
    names = [row["name"] for row in json.loads(pared_cli("profiles", "--json").stdout)]
    assert "host-cpu" in names
    assert json.loads(pared_cli("profiles", "host-cpu", "--json").stdout)["runtime"]["threads"] == 1
    doctor = json.loads(pared_cli("doctor", "--json").stdout)
    assert doctor["ok"] and doctor["runtimes"]["onnxruntime"] == "ready"


@pytest.mark.slow
@pytest.mark.ray
def test_what_only_the_model_can_tell_is_refused_and_leaves_no_run_behind(pared_cli, tmp_path: Path) -> None:
    undecided = f"{TINY.parent}/unexportable.py:subject"
    for changes, told in (({"space": {"prun": False}}, "did you mean 'prune'"),
                          ({"space": {"prune": {"criterion": "l7"}}}, "allowed: l1, l2, fpgm"),
                          ({"model": undecided}, "unexportable.py:21, if x.sum() > 0")):
        run_file = write_run_file(tmp_path, **changes)
        refused(pared_cli("search", run_file, "--out", tmp_path / "run"), told)
        assert not (tmp_path / "run").exists()
