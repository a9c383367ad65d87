"""One search for several devices at once: what is measured, compiled and predicted stays apart."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from helpers import write_run_file

import pared
from pared.errors import BudgetError, ConfigError, RunError
from pared.hardware_profiles.load import load
from pared.hardware_profiles.vela import missing
from pared.search.config import read
from pared.search.front import non_dominated

PROFILES = ["host-cpu", "ethos-u55-256", "jetson-orin-nano-tensorrt", "rpi4-ort-cpu", "stm32l4r5-cube-ai"]
BUDGETS = {"host-cpu": {"latency": "300%"}, "ethos-u55-256": {"latency": "2ms"}, "rpi4-ort-cpu": {"latency": "90%"}}


def test_a_latency_in_ms_on_an_uncalibrated_prediction_must_be_accepted(tmp_path: Path) -> None:
    fields = {"profiles": ["rpi4-ort-cpu"], "budgets": {"rpi4-ort-cpu": {"latency": "2ms"}}}
    with pytest.raises(ConfigError, match="uncalibrated, good for ranking only"):
        read(write_run_file(tmp_path, **fields))
    assert read(write_run_file(tmp_path, **fields), {"accept_uncalibrated": True}).names == ("rpi4-ort-cpu",)
    fields["budgets"] = {"rpi4-ort-cpu": {"latency": "3x"}}  # ranks are all that this needs
    assert read(write_run_file(tmp_path, **fields)).names == ("rpi4-ort-cpu",)


def test_profile_files_are_found_beside_the_run_file_and_go_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({
        "extends": "rpi4-ort-cpu", "name": "my-pi", "backend": {"kind": "command", "transport": "ssh", "host": "pi@pi"}}))
    made = read(write_run_file(tmp_path, profiles=["mine.yaml"], budgets={"my-pi": {"latency": "2ms"}}))
    assert made.names == ("my-pi",) and made.machine("my-pi").evidence == "measured"
    with pytest.raises(ConfigError, match="a name of its own"):
        read(write_run_file(tmp_path, profiles=["mine.yaml", "mine.yaml"]))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pared_cli) -> pared.Run:
    if gap := missing():
        pytest.skip(gap)
    folder = tmp_path_factory.mktemp("profiles")
    run_file = write_run_file(folder, profiles=PROFILES, budgets=BUDGETS, search={"trials": 12})
    result = pared_cli("search", run_file, "--out", folder / "run")
    assert result.returncode == 0, result.stderr
    return pared.open_run(folder / "run")


def int8(run: pared.Run) -> pared.Candidate:
    return next(c for c in run.candidates if c.runs_on(["ethos-u55-256"]))


@pytest.mark.slow
@pytest.mark.ray
class TestSearchForSeveralDevices:
    def test_every_figure_says_what_kind_it_is_and_each_kind_has_a_column_of_its_own(self, run: pared.Run) -> None:
        kinds = {"host-cpu": "measured", "ethos-u55-256": "compiled", "rpi4-ort-cpu": "predicted"}
        for name, kind in kinds.items():
            assert {c.latency(name).evidence for c in run.candidates if c.runs_on([name])} == {kind}
        predicted = int8(run).latency("rpi4-ort-cpu")
        assert predicted.low < predicted.value < predicted.high and not predicted.calibrated
        page = run.report().read_text()
        for title in ("ms host-cpu (measured)", "ms ethos-u55-256 (compiled)", "ms rpi4-ort-cpu (predicted, uncalibrated)"):
            assert title in page

    def test_a_float_file_does_not_run_on_an_int8_device_and_keeps_its_other_scores(self, run: pared.Run) -> None:
        floats = [c for c in run.candidates if c.recipe.names in ((), ("fp16",), ("prune", "recover"))]
        assert floats and all("int8" in c.absent["ethos-u55-256"] and c.runs_on(["host-cpu"]) for c in floats)
        assert run.untouched.absent.keys() >= {"ethos-u55-256", "stm32l4r5-cube-ai"}

    def test_each_profile_has_the_front_that_its_own_figures_give(self, run: pared.Run) -> None:
        for name in run.config.names:
            limits = {k: v for k, v in run.limits.items() if k.endswith(f"@{name}")}
            able = [c for c in run.candidates if c.runs_on([name])
                    and all(c.metrics[k].value <= v for k, v in limits.items() if c.metrics[k].unit != "ms" or not c.latency(name).unstable)]
            best = non_dominated(able, lambda c, name=name: (
                -c.accuracy(name).value, c.latency(name).value, c.metrics["size_bytes"].value))
            assert {c.trial for c in run.front(name)} <= {c.trial for c in best} | {c.trial for c in able}
            assert run.front(name), name
        assert {c.trial for c in run.front()} == {c.trial for n in run.config.names for c in run.front(n)}

    def test_the_tflite_is_an_artefact_scored_for_itself(self, run: pared.Run, pared_cli, tmp_path: Path) -> None:
        chosen = int8(run)
        assert (run.path / "artifacts" / chosen.shipped["ethos-u55-256"]).suffix == ".tflite"
        own, onnx = chosen.metrics["accuracy@ethos-u55-256"].value, chosen.metrics["accuracy"].value
        assert own == pytest.approx(onnx, abs=0.02)
        done = pared_cli("pick", run.path, "--trial", chosen.trial, "--profile", "ethos-u55-256", "-o", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out" / "ethos-u55-256.tflite").read_bytes()[4:8] == b"TFL3"
        assert chosen.metrics["memory_bytes@ethos-u55-256"].evidence == "compiled"

    def test_verify_scores_the_tflite_again_and_sees_a_change(self, run: pared.Run, pared_cli) -> None:
        chosen = int8(run)
        file = run.path / "artifacts" / chosen.shipped["ethos-u55-256"]
        kept = file.read_bytes()
        assert "accuracy" not in " ".join(c["problem"] for c in json.loads(pared_cli("verify", run.path, "--json").stdout)["checks"])
        try:
            file.write_bytes(kept + b"x")
            told = json.loads(pared_cli("verify", run.path, "--json").stdout)["checks"]
            assert any(file.name in c["problem"] and "was changed" in c["problem"] for c in told)
        finally:
            file.write_bytes(kept)

    def test_energy_is_there_only_where_a_source_gives_the_power(self, run: pared.Run) -> None:
        metrics = int8(run).metrics
        assert metrics["energy_mj@stm32l4r5-cube-ai"].value == pytest.approx(
            load("stm32l4r5-cube-ai").active_power.base * int8(run).latency("stm32l4r5-cube-ai").value / 1e3)
        # No source, none for an Ethos-U, and for the Jetson a limit of the board alone.
        assert not {"energy_mj@host-cpu", "energy_mj@ethos-u55-256", "energy_mj@jetson-orin-nano-tensorrt"} & set(metrics)

    def test_the_card_says_which_provider_ran_the_file_and_what_runs_on_the_npu(self, run: pared.Run) -> None:
        card = json.loads(int8(run).path.with_suffix(".json").read_text())
        assert card["providers"]["host-cpu"] == {"CPUExecutionProvider": 1.0}
        assert card["shipped"] == int8(run).shipped and set(card["absent"]) == set(int8(run).absent)

    def test_the_best_model_for_all_runs_everywhere_within_every_budget(self, run: pared.Run, pared_cli) -> None:
        best = run.best_for_all()
        assert best and best.runs_on(run.config.names) and best.test is not None
        everywhere = [c for c in run.candidates if c.runs_on(run.config.names)]
        assert best.slowness(run.config.names) <= max(c.slowness(run.config.names) for c in everywhere)
        told = json.loads(pared_cli("front", run.path, "--json").stdout)
        assert told["best_for_all"] == best.trial and set(told["fronts"]) == set(run.config.names)
        assert f"trial {best.trial}" in pared_cli("front", run.path).stdout

    def test_pick_says_that_a_figure_is_uncalibrated(self, run: pared.Run, pared_cli) -> None:
        assert any("ranking only" in note for note in run.pick("rpi4-ort-cpu").notes)
        refused = pared_cli("pick", run.path, "--profile", "rpi4-ort-cpu", "--latency", "5ms")
        assert refused.returncode == 2 and "--accept-uncalibrated" in refused.stderr
        assert run.pick("rpi4-ort-cpu", latency="500ms", accept_uncalibrated=True)
        with pytest.raises(ConfigError, match="say on which profile"):
            run.pick(latency="5ms")
        with pytest.raises(BudgetError, match="does not run there"):
            run.pick("ethos-u55-256", latency="3x")

    def test_figures_measured_elsewhere_get_a_column_of_their_own(self, run: pared.Run, pared_cli, tmp_path: Path) -> None:
        """Last of its class: it adds a profile to the run that the others read."""
        some = int8(run)
        reference = run.baseline.sha256

        def table(*rows: tuple[str, float]) -> Path:
            with (tmp_path / "lab.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("sha256", "latency_ms"), *rows])
            return tmp_path / "lab.csv"

        moved = pared_cli("import", run.path, table((reference, 10.0), (some.sha256, 3.0), (reference, 11.0)), "--profile", "rpi4-ort-cpu")
        assert moved.returncode == 2 and "moved" in moved.stderr
        with pytest.raises(RunError, match="none of its"):
            from pared.search.measurements import add
            add(run.path, table(("ab" * 32, 1.0), ("ab" * 32, 1.0)), "rpi4-ort-cpu")
        good = pared_cli("import", run.path, table((reference, 10.0), (some.sha256, 3.0), (reference, 10.1)), "--profile", "rpi4-ort-cpu")
        assert good.returncode == 0, good.stderr
        again = pared.open_run(run.path)
        measured = next(c for c in again.candidates if c.trial == some.trial).latency("rpi4-ort-cpu-measured")
        assert (measured.value, measured.evidence) == (3.0, "measured")
        assert "ms rpi4-ort-cpu-measured (measured)" in again.report(tmp_path / "page.html").read_text()
        assert again.pick("rpi4-ort-cpu-measured", latency="4ms").trial == some.trial
        other = next(c for c in again.candidates if c.sha256 not in (some.sha256, reference))
        assert "not measured" in other.absent["rpi4-ort-cpu-measured"]
