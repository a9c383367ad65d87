"""A run that starts from another one, and trainings that are judged on the way, on real Ray."""

from collections import Counter
from pathlib import Path

import pytest
from helpers import TINY, write_run_file

import pared
from pared.errors import ConfigError
from pared.hardware_profiles.load import load
from pared.search.config import build
from pared.spaces import space as spaces
from pared.spaces.passes import FILE, Scope

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def second(finished: Path, pared_cli, tmp_path_factory: pytest.TempPathFactory) -> pared.Run:
    out = tmp_path_factory.mktemp("second") / "run"
    done = pared_cli("search", "--from", finished, "--profile", "rpi4-ort-cpu", "--trials", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    return pared.open_run(out)


def test_all_that_a_run_knows_is_scored_for_another_device_without_training(
    finished: Path, second: pared.Run
) -> None:
    first, ours = pared.open_run(finished), {c.sha256: c for c in second.candidates}
    assert second.config.names == ("rpi4-ort-cpu",)
    for candidate in first.candidates:
        again = ours[candidate.sha256]
        assert again.recipe == candidate.recipe
        assert again.metrics["accuracy"].value == candidate.metrics["accuracy"].value
        assert again.latency("rpi4-ort-cpu").evidence == "predicted"
    known = [t for t in second.trials if t.user_attrs.get("origin") == "known"]
    assert len(known) == len(first.candidates) - 1
    assert all(trial.user_attrs["outcome"]["train_s"] == 0 for trial in known)
    assert second.counts().asked == len(first.candidates) + 1 and second.front()


def test_resuming_it_trains_nothing_that_was_known(finished: Path, second: pared.Run, pared_cli) -> None:
    more = second.counts().asked + 2
    assert pared_cli("resume", second.path, "--trials", more).returncode == 0
    trained = {t.user_attrs["outcome"]["trained"] for t in pared.open_run(finished).trials} - {""}
    again = pared.open_run(second.path)
    assert again.counts().asked == more
    assert not trained & {t.user_attrs["outcome"]["trained"] for t in again.trials}


def test_another_model_or_no_run_is_refused_and_nothing_is_written(
    finished: Path, pared_cli, tmp_path: Path
) -> None:
    other = write_run_file(tmp_path, model=f"{TINY}:broken")
    for run_file, told in ((other, "of another model"), (tmp_path / "run.yaml", "another")):
        done = pared_cli("search", run_file, "--from", finished, "--out", tmp_path / "run")
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
    done = pared_cli("search", "--from", tmp_path / "nothing", "--out", tmp_path / "run")
    assert done.returncode == 2 and "nothing" in done.stderr
    assert not (tmp_path / "run").exists()


def test_only_the_best_of_a_rung_are_trained_on(subject, tmp_path: Path) -> None:
    formats = dict.fromkeys(FILE, False)
    run = pared.search(subject, profiles=["rpi4-ort-cpu"], trials=14, out=tmp_path / "run", space={**formats, "sparsify": False},
                       search={"sampler": "front", "rungs": [1, 2]}, cluster={"workers": 2})
    steps = [(t, dict(c.recipe.training_steps).get("recover")) for t, c in
             zip([t for t in run.trials if t.state.name == "COMPLETE"], run.candidates, strict=True)]
    own = Counter(step.epochs for trial, step in steps if step and trial.user_attrs.get("origin") != "anchor")
    assert own[1] >= 4 and 1 <= own[2] <= own[1] / 2 + 3, own  # the anchors of that rung may be among the best
    assert all(step.after == ((1,) if step.epochs == 2 else ()) for _, step in steps if step)


@pytest.mark.parametrize(("wish", "told"), [
    ({"recover": False}, "nothing is trained here"), ({"recover": {"epochs": [1, 2]}}, "both say how long")])
def test_rungs_that_decide_nothing_are_refused(wish: dict, told: str) -> None:
    scope = Scope(("stage1",), {"Conv": 1.0}, (load("host-cpu"),), rungs=(1, 3))
    with pytest.raises(ConfigError, match=told):
        spaces.build(scope, wish)


@pytest.mark.parametrize("rungs", [[3], [3, 1], [1, 1], [-1, 2]])
def test_rungs_ascend(rungs: list[int]) -> None:
    with pytest.raises(ConfigError, match="ascending numbers of epochs"):
        build({"model": "a:b", "search": {"rungs": rungs}}, {}, "run.yaml")
