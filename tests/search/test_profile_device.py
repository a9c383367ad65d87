"""`pared profile-device`: a device is measured, its profile is fitted, and says how far off it is."""

import csv
import json
import time
from pathlib import Path

import pytest
import yaml
from helpers import TINY

from pared.hardware_profiles import graph
from pared.hardware_profiles.load import load
from pared.hardware_profiles.predict import predict

MODEL = f"{TINY}:subject"


def test_a_profile_without_a_device_says_how_to_get_one(pared_cli, tmp_path: Path) -> None:
    told = pared_cli("profile-device", "rpi4-ort-cpu", cwd=tmp_path)
    assert told.returncode == 2 and "has no device" in told.stderr and "kind: command" in told.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_this_machine_is_profiled_within_two_minutes(pared_cli, tmp_path: Path) -> None:
    began = time.perf_counter()
    done = pared_cli("profile-device", "host-cpu", "--model", MODEL, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - began < 120
    made = json.loads(done.stdout)
    assert 8 <= sum(m["dtype"] == "fp32" for m in made["measured"]) <= 10
    profile = load(tmp_path / "host-cpu-calibrated.yaml")
    assert profile.evidence == "predicted" and profile.calibrated
    assert set(profile.calibration) == {"fp32", "int8"}
    fit = profile.calibration["fp32"]
    assert fit.models >= 8 and 0 < fit.loo_mape < 1 and fit.doubt > 1 and fit.runtime_version and fit.date


@pytest.mark.slow
def test_a_device_behind_a_command_is_profiled_and_its_profile_predicts(pared_cli, tmp_path: Path) -> None:
    """The command is real, the device is this machine."""
    (tmp_path / "desk.yaml").write_text(yaml.safe_dump({
        "extends": "host-cpu", "name": "desk", "backend": {
            "kind": "command", "transport": "local", "folder": str(tmp_path / "device"),
            "command": ["python3", "-c", FAKE, "{file}"]}}))
    done = pared_cli("profile-device", "desk.yaml", "--model", MODEL, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    profile = load(tmp_path / "desk-calibrated.yaml")
    probe = next(m for m in json.loads(done.stdout)["measured"] if m["name"] == "model fp32")
    kernels = graph.read(_untouched())
    found = predict(kernels, profile, "fp32")
    assert found.low_ms <= probe["latency_ms"] <= found.high_ms


@pytest.mark.slow
def test_files_go_out_and_a_table_comes_back_for_a_device_without_a_runner(pared_cli, tmp_path: Path) -> None:
    out = pared_cli("profile-device", "stm32l4r5-cube-ai", "--model", MODEL, "--export", tmp_path / "files", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    with (tmp_path / "files" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == rows[-1] and all((tmp_path / "files" / f"{row['sha256']}.onnx").exists() for row in rows)
    for row in rows:
        kernels = graph.read(tmp_path / "files" / f"{row['sha256']}.onnx")
        row["latency_ms"] = str(0.5 + sum(k.macs for k in kernels) / 60_000)
    with (tmp_path / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    back = pared_cli("profile-device", "stm32l4r5-cube-ai", "--model", MODEL, "--results", tmp_path / "results.csv",
                     "--json", cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    made = load(tmp_path / "stm32l4r5-cube-ai-calibrated.yaml")
    assert set(made.calibration) == {"int8"} and 8 <= made.calibration["int8"].models <= 10
    assert made.calibration["int8"].loo_mape < 0.5  # of a machine that no device is like


def test_a_calibration_of_another_runtime_is_told(tmp_path: Path) -> None:
    from pared.evaluators.devices import device

    fit = {"form": "macs", "coefficients": {}, "doubt": 1.2, "loo_mape": 0.1, "models": 9, "runtime_version": "0.1"}
    profile = load("rpi4-ort-cpu")
    old = profile.model_validate({**profile.model_dump(), "calibration": {"fp32": fit}})
    assert "was calibrated for onnxruntime 0.1" in device(old)._outdated(_untouched())[0]


def _untouched() -> bytes:
    from helpers import load_tiny

    from pared.evaluators.export import export
    from pared.spaces.subject import example_inputs

    subject = load_tiny().subject()
    return export(subject.model(), example_inputs(subject)).SerializeToString()


FAKE = """
import json, os, sys
size = os.path.getsize(sys.argv[1])
print(json.dumps({"latency_ms": 0.2 + size / 1e5, "p50_ms": 0.2 + size / 1e5}))
"""
