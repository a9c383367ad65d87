"""A few measurements turn a profile that ranks into one whose milliseconds can be trusted."""

import math
from pathlib import Path

import numpy as np
import pytest
from helpers import SHARED
from kernels import Machine, narrow, nets

from pared.errors import ProfileError
from pared.hardware_profiles.calibrate import calibrate
from pared.hardware_profiles.load import dump, load
from pared.hardware_profiles.predict import predict

PI = load("rpi4-ort-cpu")
MACHINE = Machine(mac_us=90.0, byte_us=400.0, kernel_us=20.0)  # three times slower than the profile says


def error(profile, measured, rest) -> float:
    made = calibrate(profile, measured)
    return float(np.mean([abs(predict(k, made).latency_ms / ms - 1) for k, ms in rest]))


def measurements(seed: int = 0, noise: float = 0.02) -> list:
    rng = np.random.default_rng(seed)
    return [(net, MACHINE.ms(net) * float(rng.lognormal(0, noise))) for net in nets()]


def test_five_measurements_bring_the_error_from_wrong_to_small() -> None:
    all_of_them = measurements()
    known, rest = all_of_them[::3], all_of_them[1::3] + all_of_them[2::3]
    before = np.mean([abs(predict(k, PI).latency_ms / ms - 1) for k, ms in rest])
    assert before > 0.3 and error(PI, known, rest) < 0.15


def test_the_declared_peak_hardly_matters_once_it_is_calibrated() -> None:
    known, rest = measurements()[::3], [net for net, _ in measurements()[1::3]]
    peak = PI.precisions["fp32"].peak.model_copy(update={"value": 5 * PI.precisions["fp32"].peak.value})
    boast = PI.model_copy(update={"precisions": {**PI.precisions, "fp32": PI.precisions["fp32"].model_copy(update={"peak": peak})}})
    one, other = calibrate(PI, known), calibrate(boast, known)
    assert all(predict(n, one).latency_ms == pytest.approx(predict(n, other).latency_ms, rel=0.1) for n in rest)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_measurements_are_enough_to_go_on(count: int) -> None:
    made = calibrate(PI, measurements()[:count])
    assert (made == PI) is (count == 0)
    found = predict(narrow(0.6), made)
    assert 0 < found.low_ms < found.latency_ms < found.high_ms < math.inf


def test_the_interval_narrows_with_measurements_and_holds_the_truth() -> None:
    widths, held = [], []
    for seed in range(5):
        data = measurements(seed)
        order = np.random.default_rng(seed).permutation(len(data))
        known, rest = [data[i] for i in order[:8]], [data[i] for i in order[8:]]
        made = calibrate(PI, known)
        found = [(predict(k, made), ms) for k, ms in rest]
        widths.append(np.mean([f.high_ms / f.low_ms for f, _ in found]))
        held += [f.low_ms <= ms <= f.high_ms for f, ms in found]
    assert np.mean(held) >= 0.9 and np.mean(widths) < 6  # 9 before


def test_the_profile_keeps_the_error_and_survives_its_file(tmp_path: Path) -> None:
    made = calibrate(PI, measurements())
    fit = made.calibration["fp32"]
    assert fit.models == len(nets()) and 0 < fit.loo_mape < 0.2 and fit.doubt > 1 and len(fit.data) == 64
    assert made.calibrated and not PI.calibrated
    (tmp_path / "made.yaml").write_text(dump(made))
    again = load(tmp_path / "made.yaml")
    assert predict(narrow(0.7), again).latency_ms == pytest.approx(predict(narrow(0.7), made).latency_ms)


def test_a_plainer_form_is_chosen_where_it_is_much_better() -> None:
    """Time is MACs alone, but for what the predictor adds to narrow layers, which fill whole blocks."""
    only_macs = Machine(mac_us=90.0, byte_us=0.0, kernel_us=0.0)
    made = calibrate(PI, [(net, only_macs.ms(net)) for net in nets()])
    fit = made.calibration["fp32"]
    assert fit.form in ("MACs", "three features") and fit.loo_mape < 0.2


def test_each_format_has_a_fit_of_its_own() -> None:
    slow, fast = measurements(), [(net, ms / 3) for net, ms in measurements()]
    made = calibrate(calibrate(PI, slow, "fp32"), fast, "int8")
    assert predict(narrow(0.7), made, "fp32").latency_ms > 2 * predict(narrow(0.7), made, "int8").latency_ms


@pytest.mark.parametrize(("samples", "dtype", "told"), [
    ([(narrow(1.0), float("nan"))], "fp32", "must be a positive number"),
    ([(narrow(1.0), -1.0)], "fp32", "must be a positive number"),
    ([([], 1.0)], "fp32", "no kernels"),
])
def test_calibrate_refuses_what_is_no_measurement(samples: list, dtype: str, told: str) -> None:
    with pytest.raises(ProfileError, match=told):
        calibrate(PI, samples, dtype)


def test_calibrate_refuses_a_rate_above_the_vendors_peak_and_a_format_that_is_not_run() -> None:
    with pytest.raises(ProfileError, match="peak below a measured rate"):
        calibrate(load("t4-ort-cuda"), [(narrow(1.0) * 100, 1e-4)])
    with pytest.raises(ProfileError, match="its precisions: int8"):
        calibrate(load("stm32l4r5-cube-ai"), measurements(), "fp32")


def test_public_measurements_of_a_board_are_predicted_from_ten_of_them() -> None:
    """A Raspberry Pi 5 running ncnn; the models that were not measured."""
    import csv
    import json

    from pared.hardware_profiles.graph import Kernel

    if not (SHARED / "latency").is_dir():
        pytest.skip("needs ../shared/latency")
    models = json.loads((SHARED / "latency" / "zoo_kernels.json").read_text())["models"]
    with (SHARED / "latency" / "zoo_latency_ncnn.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if "A311D" in r["device"] and float(r["gpu"]) < 0 and r["threads"] == "4"]
    found = {r["model"]: ([Kernel(*k) for k in models[r["model"]]["kernels"]], float(r["min_ms"]))
             for r in rows if r["model"] in models and "int8" not in r["model"] and float(r["min_ms"]) > 0}
    if len(found) < 15:
        pytest.skip("the table holds too few models of this board")
    names = np.random.default_rng(0).permutation(sorted(found))
    assert error(PI, [found[n] for n in names[:10]], [found[n] for n in names[10:]]) < 0.3
