"""The commands `pared techniques` and `pared sensitivity`, as a user meets them."""

import json
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from helpers import TINY, write_run_file

from pared.errors import RecipeError
from pared.evaluators.artifact import Store
from pared.evaluators.export import export
from pared.evaluators.subjects.find import find
from pared.hardware_profiles.load import known, load
from pared.search import sensing
from pared.search.cache import Cache
from pared.search.report import figures
from pared.search.techniques import everything, techniques
from pared.spaces import _layerwise, legal
from pared.spaces.passes import PASSES
from pared.spaces.sensitivity import Sensitivity, from_json
from pared.spaces.subject import example_inputs

HOST = load("host-cpu")


def row(name: str, *profiles) -> dict:
    return next(row for row in techniques(profiles or (HOST,)) if row["name"] == name)


def test_every_technique_is_listed_in_the_order_of_a_recipe_with_all_that_belongs_to_it() -> None:
    rows = techniques([load(name) for name in known()])
    assert [r["name"] for r in rows] == [name for name in legal.ORDER if name in PASSES]
    assert {r["name"] for r in rows} == set(PASSES)
    for r in rows:
        assert r["kind"] in ("module", "training", "file", "tuning") and r["does"] and r["paper"]
        assert set(r["profiles"]) == set(known())
        assert set(r["profiles"].values()) <= {"speed", "size only", "accuracy"}
    json.dumps(rows, allow_nan=False)


def test_every_technique_has_a_place_in_a_model_that_has_everything() -> None:
    scope = everything((HOST,))
    assert {name: why for name, each in PASSES.items() if (why := each.refused(scope))} == {}
    for name, each in PASSES.items():
        for setting in each.usual(scope):
            assert set(setting) <= set(each.knobs(scope)), name


def test_knobs_say_their_range_and_which_knob_opens_them() -> None:
    prune = row("prune")["knobs"]
    assert prune["criterion"]["type"] == "choice" and "l2" in prune["criterion"]["options"]
    assert prune["amount"]["only_if"]["knob"] == "allocation"
    assert row("mixed")["knobs"]["average_bits"] == {
        "type": "real", "low": 2.0, "high": 8.0, "step": 0.25, "log": False}


def test_labels_follow_what_a_machine_exploits() -> None:
    plain = HOST.model_copy(update={"name": "plain", "exploits": ()})
    able = HOST.model_copy(update={"name": "able", "exploits": ("fp16", "int8", "low_bit_weights")})
    for name in ("fp16", "int8_static", "mixed"):
        assert row(name, plain, able)["profiles"] == {"plain": "size only", "able": "speed"}
    assert row("prune", plain)["profiles"] == {"plain": "speed"}
    assert row("recover", plain)["profiles"] == {"plain": "accuracy"}


def test_what_combines_is_symmetric_and_what_recipes_allow() -> None:
    rows = {r["name"]: r for r in techniques((HOST,))}
    for one, other in combinations(rows, 2):
        fits = other in rows[one]["combines_with"]
        assert fits == (one in rows[other]["combines_with"])
        needed = [*rows[one]["needs_one_of"], *rows[other]["needs_one_of"], ""]
        names = [[n for n in legal.ORDER if n in {one, other, a, b}] for a in needed for b in needed]
        assert fits == any(_is_legal(each) for each in names), (one, other)
    assert "prune" in rows["mixed"]["combines_with"] and "fp16" in rows["mixed"]["excludes"]


def _is_legal(names: list[str]) -> bool:
    try:
        legal.check(names)
    except RecipeError:
        return False
    return True


@pytest.mark.slow
def test_the_command_lists_them_for_profiles_or_a_run_file(pared_cli, tmp_path: Path) -> None:
    asked = pared_cli("techniques", "--json", "--profile", "host-cpu", "--profile", "rpi4-ort-cpu")
    assert set(json.loads(asked.stdout)[0]["profiles"]) == {"host-cpu", "rpi4-ort-cpu"}
    run_file = write_run_file(tmp_path)
    assert set(json.loads(pared_cli("techniques", run_file, "--json").stdout)[0]["profiles"]) == {"rpi4-ort-cpu"}
    shown = pared_cli("techniques", "--profile", "host-cpu").stdout
    assert "mixed" in shown and "average_bits" in shown and "size only" in shown


@pytest.mark.parametrize(("arguments", "told"), [
    (("techniques", "--profile", "hots-cpu"), "did you mean 'host-cpu'"),
    (("techniques", "nowhere.yaml"), "nowhere.yaml"),
    (("sensitivity", "nowhere.yaml"), "no run file"),
    (("sensitivity", "."), "is not a run"),
])
@pytest.mark.slow
def test_wrong_input_is_refused_and_nothing_is_written(
    pared_cli, tmp_path, tmp_path_factory, monkeypatch, arguments, told
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    done = pared_cli(*arguments)
    assert not (cache / "pared").exists()
    assert done.returncode == 2 and told in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == "" and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_sensitivities_are_measured_once_and_shown(pared_cli, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run_file = write_run_file(tmp_path)
    first = pared_cli("sensitivity", run_file, "--json")
    stored = list((tmp_path / "cache" / "pared").iterdir())
    assert len(stored) == 1
    file = stored[0].stat().st_ino
    second = pared_cli("sensitivity", run_file, "--json")
    assert json.loads(first.stdout) == json.loads(second.stdout)
    assert stored[0].stat().st_ino == file, "measured and written again"
    assert set(from_json(json.loads(first.stdout)).bits) == {
        "stem.0.weight", "inner.weight", "down.0.weight", "head.weight"}
    assert re.search(r"inner\.weight .*e-0\d", pared_cli("sensitivity", run_file).stdout)


def test_the_store_gives_back_what_was_measured_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    subject = find(f"{TINY}:subject", tmp_path)
    file = export(subject.model(), example_inputs(subject)).SerializeToString()
    store, cache, told = Store(str(tmp_path / "run")), Cache(str(tmp_path / "cache")), []

    def find_out(*keep: str) -> Sensitivity:
        return sensing.found(subject, file, keep, store, cache, told.append)

    once = find_out()
    count, name = len(told), _layerwise.key(subject.model(), file, _examples(subject))
    assert count and find_out() == once and len(told) == count
    assert find_out("head") != once and len(told) > count
    assert (tmp_path / "run" / f"sensitivity-{name}.json").exists()
    count = len(told)
    (tmp_path / "cache" / name).write_text("{")
    assert find_out() == once and len(told) > count, "a damaged one is measured again"
    picture = figures.sensitivity(once)
    assert [len(trace.y) for trace in picture.data] == [4, 2]
    assert len(figures.sensitivity(replace(once, ratios={})).data) == 1


def _examples(subject):
    return subject.split("calibration").inputs


@pytest.mark.parametrize(("wish", "asked"), [
    ({}, True), ({"prune": {"allocation": ["stages"]}, "mixed": False, "mixed_int8": False}, False),
    ({"prune": {"allocation": ["stages", "sensitivity"]}, "mixed": False, "mixed_int8": False}, True),
    ({"prune": False, "mixed": False, "mixed_int8": False}, False), ({"prune": False, "mixed": True}, True),
])
def test_they_are_measured_only_where_a_technique_decides_by_them(wish: dict, asked: bool) -> None:
    assert sensing.wanted(wish) == asked
