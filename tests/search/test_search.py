"""One finished search on real Ray, seen through every command that reads it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from clusters import ray_start
from helpers import TINY, free_port, write_run_file

import pared
from pared.errors import BudgetError, ConfigError, RunError
from pared.search.front import non_dominated
from pared.spaces.passes import PASSES

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def front(finished: Path, pared_cli) -> dict:
    result = pared_cli("front", finished, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_front_json_has_the_promised_shape(front: dict) -> None:
    assert set(front) == {"run", "baseline", "points", "counts"}
    assert {"asked", "refused", "failed", "complete", "trained"} <= set(front["counts"])
    for point in [front["baseline"], *front["points"]]:
        assert {"trial", "recipe", "recipe_digest", "artifact", "sha256", "metrics", "test"} <= set(point)
        assert {"accuracy", "size_bytes", "latency_ms@host-cpu"} <= set(point["metrics"])
        for metric in point["metrics"].values():
            assert {"value", "unit", "evidence", "spread", "n"} <= set(metric)
        assert point["metrics"]["latency_ms@host-cpu"]["ratio"] > 0
        assert point["metrics"]["latency_ms@host-cpu"]["evidence"] == "measured"
        assert point["metrics"]["memory_bytes"]["evidence"] == "predicted"
        assert 0 <= point["test"]["accuracy"]["value"] <= 1


def test_known_good_recipes_and_the_untouched_model_are_among_the_candidates(finished: Path) -> None:
    names = [c.recipe.names for c in pared.open_run(finished).candidates]
    assert names[0] == ()
    assert {("fp16",), ("int8_static",), ("prune", "recover")} <= set(names)
    assert pared.open_run(finished).baseline.drop.value == 0


def test_points_of_the_front_are_real_files_that_nothing_beats(finished: Path, front: dict) -> None:
    run = pared.open_run(finished)
    for candidate in run.front():
        content = candidate.path.read_bytes()
        assert len(content) == candidate.metrics["size_bytes"].value
        onnx.checker.check_model(onnx.load_from_string(content))
        ort.InferenceSession(content).run(None, {"input0": np.zeros((1, 1, 14, 14), np.float32)})

    def losses(c: pared.Candidate) -> tuple[float, ...]:
        return (-c.metrics["accuracy"].value, c.latency("host-cpu").value, c.metrics["size_bytes"].value)

    assert {p["trial"] for p in front["points"]} == {c.trial for c in non_dominated(run.candidates, losses)}


def test_one_training_gives_several_points_and_equal_recipes_run_once(finished: Path) -> None:
    run = pared.open_run(finished)
    digests = [c.recipe.digest for c in run.candidates]
    assert len(digests) == len(set(digests))
    trained = [c for c in run.candidates if c.recipe.trains]
    prefixes = {c.recipe.prefix.digest for c in trained}
    assert run.counts().trained == len(prefixes) < len(trained)


def test_the_float_sibling_is_the_very_file_that_was_trained(finished: Path) -> None:
    run = pared.open_run(finished)
    plain = [c for c in run.candidates if c.recipe.names == ("prune", "recover")]
    outcomes = {t.user_attrs["outcome"].get("trained") for t in run.trials}
    assert plain and all(c.sha256 in outcomes for c in plain)


def test_cards_tell_recipe_versions_and_figures(finished: Path) -> None:
    for candidate in pared.open_run(finished).candidates:
        card = json.loads(candidate.path.with_suffix(".json").read_text())
        assert card["recipe_digest"] and card["versions"]["onnxruntime"] == ort.__version__
        assert card["subject"] == "TinyNet"


def test_pick_exports_the_file_it_names(finished: Path, pared_cli, tmp_path: Path) -> None:
    result = pared_cli("pick", finished, "--max-drop", "0.02", "-o", tmp_path / "out", "--json")
    picked = json.loads(result.stdout)
    assert picked["drop"]["value"] <= 0.02
    assert Path(picked["exported"]).read_bytes() == (finished / picked["artifact"]).read_bytes()
    assert json.loads((tmp_path / "out" / "model.json").read_text())["sha256"] == picked["sha256"]


def test_pick_is_the_fastest_that_fits(finished: Path) -> None:
    run = pared.open_run(finished)
    fit = [c for c in run.candidates if c.drop.value <= 0.03 and c.metrics["size_bytes"].value <= 20_000]
    picked = run.pick(max_drop=0.03, size="20kB")
    assert picked.latency("host-cpu").value == min(c.latency("host-cpu").value for c in fit)


def test_pick_says_when_n_is_too_small_for_the_claim(finished: Path) -> None:
    run = pared.open_run(finished)
    int8 = next(c for c in run.candidates if c.recipe.names == ("int8_static",))
    notes = run.pick(trial=int8.trial, max_drop=max(0.0, int8.drop.value)).notes
    assert any("too small to support" in note for note in notes)


def test_pick_says_the_nearest_when_nothing_fits(finished: Path, pared_cli) -> None:
    result = pared_cli("pick", finished, "--latency", "0.0001ms")
    assert result.returncode == 2
    assert "nothing meets the budget" in result.stderr and "fastest found" in result.stderr
    with pytest.raises(BudgetError, match="least lost|nothing meets"):
        pared.open_run(finished).pick(max_drop=0.0, size="100B")
    with pytest.raises(ConfigError, match="unknown profile"):
        pared.open_run(finished).pick(profile="rpi4")
    with pytest.raises(ConfigError, match="unknown scored trial"):
        pared.open_run(finished).pick(trial=999)


def test_size_only_techniques_are_labelled(finished: Path) -> None:
    run = pared.open_run(finished)
    labels = {c.recipe.names[-1]: c.size_only["host-cpu"] for c in run.candidates if c.recipe.file_steps}
    assert labels["fp16"] == ["fp16"] and labels["int8_static"] == []


def test_status_of_a_finished_run(finished: Path, pared_cli) -> None:
    status = json.loads(pared_cli("status", finished, "--json").stdout)
    assert status["driver"] == {"alive": False, "pid": None, "host": None} and status["copy"] is None and status["running"] == []
    assert status["counts"]["asked"] == status["target"] == 12
    assert status["trials_per_hour"] > 0 and status["front"] >= 3


def test_verify_scores_every_file_again_and_names_what_changed(finished: Path, pared_cli) -> None:
    run = pared.open_run(finished)
    victim, missing = run.front()[0], run.front()[-1]
    kept = victim.path.read_bytes(), missing.path.read_bytes()
    try:
        victim.path.write_bytes(kept[0] + b"x")
        missing.path.unlink()
        told = pared_cli("verify", finished, "--json")
        assert told.returncode == 1
        checks = json.loads(told.stdout)["checks"]
        assert len(checks) == len(run.front())
        assert all(c["accuracy"] == c["reported_accuracy"] for c in checks)
        # The tiny network runs for microseconds, so whether its latency holds is left out here.
        assert sum("artefact" in c["problem"] for c in checks) == 2
        problems = {c["sha256"]: c["problem"] for c in checks}
        assert "was changed" in problems[victim.sha256] and "is missing" in problems[missing.sha256]
        with pytest.raises(RunError, match="was changed"):
            victim.export(finished.parent / "never")
        assert not (finished.parent / "never").exists()
    finally:
        victim.path.write_bytes(kept[0])
        missing.path.write_bytes(kept[1])


def test_the_optuna_dashboard_reads_the_journal(finished: Path) -> None:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna_dashboard import wsgi

    app = wsgi(JournalStorage(JournalFileBackend(str(finished / "journal.log"))))
    answer: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies", "SERVER_NAME": "x", "SERVER_PORT": "1",
               "wsgi.url_scheme": "http", "wsgi.input": None, "QUERY_STRING": "", "SCRIPT_NAME": ""}
    body = b"".join(app(environ, lambda status, headers, *_: answer.append(status)))
    assert answer == ["200 OK"] and json.loads(body)["study_summaries"][0]["study_name"] == "pared"


def test_searching_into_an_existing_run_is_refused(finished: Path, pared_cli) -> None:
    before = (finished / "journal.log").read_bytes()
    result = pared_cli("search", finished.parent / "run.yaml", "--out", finished)
    assert result.returncode == 2 and "pared resume" in result.stderr
    assert (finished / "journal.log").read_bytes() == before


def test_resume_of_a_finished_run_adds_nothing_and_more_trials_add_some(
        finished: Path, pared_cli, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    before = [c.trial for c in pared.open_run(copy).candidates]
    assert pared_cli("resume", copy).returncode == 0
    assert [c.trial for c in pared.open_run(copy).candidates] == before
    done = pared_cli("resume", copy, "--trials", "13", "--json")
    assert done.returncode == 0, done.stderr
    again = pared.open_run(copy)
    assert again.counts().asked == 13 and [c.trial for c in again.candidates][: len(before)] == before


def test_the_python_words_do_what_the_commands_do(subject, tmp_path: Path) -> None:
    formats = {name: False for name in PASSES if name not in ("fp16", "int8_static", "weight_only")}
    run = pared.search(subject, profiles=["rpi4-ort-cpu"], budgets={"size": "60%"}, trials=5, out=tmp_path / "run",
                       space=formats, search={"sampler": "front"}, cluster={"workers": 2})
    assert run.counts().asked == 5
    assert any("origin" not in trial.user_attrs for trial in run.trials)  # FrontSampler's own
    assert all(c.metrics["size_bytes"].value <= 0.6 * run.untouched.size_bytes for c in run.front())
    exported = run.pick().export(tmp_path / "out")
    assert exported.stat().st_size <= 0.6 * run.untouched.size_bytes
    with pytest.raises(ConfigError, match="started from Python"):
        pared.resume(tmp_path / "run", trials=6)
    assert pared.resume(tmp_path / "run", subject, trials=6).counts().asked == 6
    with pytest.raises(RunError, match="not the one this run started with"):
        pared.resume(tmp_path / "run", other_weights(), trials=7)


@pytest.fixture
def cluster(no_token: None) -> Iterator[str]:
    """The address of a Ray cluster of its own process tree."""
    port = free_port()
    with ray_start("--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"):
        yield f"127.0.0.1:{port}"


def test_an_address_where_no_cluster_is_is_told(tmp_path: Path, pared_cli) -> None:
    result = pared_cli("search", write_run_file(tmp_path), "--out", tmp_path / "run", "--address", "nowhere")
    assert result.returncode == 2 and "cluster.address 'nowhere'" in result.stderr
    assert not (tmp_path / "run").exists()


def other_weights() -> pared.Classification:
    import torch
    from helpers import load_tiny

    tiny = load_tiny()
    data = tiny.arrays()
    torch.manual_seed(1)
    return pared.Classification(tiny.TinyNet(), data["train"], data["validation"], data["test"])


def test_what_breaks_a_budget_is_refused_before_training(tmp_path: Path, pared_cli) -> None:
    run_file = write_run_file(tmp_path, budgets={"size": "9kB"}, search={"trials": 9})
    result = pared_cli("search", run_file, "--out", tmp_path / "run")
    run = pared.open_run(tmp_path / "run")
    refused = [t.user_attrs["outcome"] for t in run.trials if t.user_attrs["outcome"]["state"] == "refused"]
    assert refused and all(o["train_s"] == 0 and "over its budget of 9000" in o["reason"] for o in refused)
    over = [c for c in run.candidates if c.metrics["size_bytes"].value > 9000]
    assert [c.recipe.steps for c in over] == [()]  # the untouched model alone is scored all the same
    assert result.returncode == 0
    assert all(c.metrics["size_bytes"].value <= 9000 for c in run.front())


def test_a_budget_that_nothing_meets_says_the_nearest_and_keeps_the_run(
        tmp_path: Path, pared_cli, cluster: str) -> None:
    """On a cluster that is there already, which the run joins and leaves."""
    run_file = write_run_file(tmp_path, budgets={"size": "100B"}, search={"trials": 4})
    result = pared_cli("search", run_file, "--out", tmp_path / "run", "--address", cluster)
    assert result.returncode == 2 and "nothing meets the budget" in result.stderr, result.stderr
    assert "x over" in result.stderr
    assert pared.open_run(tmp_path / "run").counts().trained == 0


def test_what_the_users_code_does_wrong_fails_the_trial_and_the_search_goes_on(
        tmp_path: Path, pared_cli) -> None:
    run_file = write_run_file(tmp_path, model=f"{TINY}:broken", search={"trials": 5})
    result = pared_cli("search", run_file, "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    run = pared.open_run(tmp_path / "run")
    assert run.counts().asked == 5 and [c.recipe.steps for c in run.candidates] == [()]
    reasons = {t.number: t.user_attrs["outcome"]["reason"] for t in run.trials if t.state.name == "FAIL"}
    assert "not a number" in reasons[1] and "not a number" in reasons[2]
    assert "the loss of this subject always raises" in reasons[3] and "tiny.py" in reasons[3]
