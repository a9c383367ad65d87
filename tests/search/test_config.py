from pathlib import Path

import pytest

from pared.errors import ConfigError, ParedError
from pared.search import config
from pared.search.starter import RUN_FILE

BASE = {"model": "./subject.py:subject"}


def test_the_resolved_file_reads_back_as_the_same_config(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN_FILE)
    read = config.read(path, {"search.trials": 7, "budgets.size": "25%"})
    assert read.search.trials == 7 and read.search.timeout == 1800
    assert read.budgets.profiles["host-cpu"].latency == "3x"
    path.write_text(config.dump(read))
    assert config.read(path) == read


@pytest.mark.parametrize(("fields", "told"), [
    ({"modle": "x"}, "unknown key 'modle'; did you mean 'model'"),
    ({}, "model: Field required"),
    ({**BASE, "budgets": {"host-cpu": {"latncy": "2ms"}}}, "did you mean 'latency'"),
    ({**BASE, "budgets": {"hots-cpu": {"latency": "2ms"}}}, "did you mean 'host-cpu'"),
    ({**BASE, "budgets": {"host-cpu": {"latency": "fast"}}}, "budget 'fast' cannot be read"),
    ({**BASE, "budgets": {"size": "2ms"}}, "budget '2ms' cannot be read"),
    ({**BASE, "profiles": ["hots-cpu"]}, "did you mean 'host-cpu'"),
    ({**BASE, "profiles": []}, "profiles"),
    ({**BASE, "search": {"trails": 3}}, "did you mean 'trials'"),
    ({**BASE, "search": {"trials": 0}}, "search.trials"),
    ({**BASE, "search": {"timeout": "soon"}}, "a time is written"),
    ({**BASE, "max_accuracy_drop": 3}, "max_accuracy_drop"),
    ({**BASE, "objectives": ["speed"]}, "objectives"),
])
def test_wrong_input_is_told_with_what_is_allowed(fields: dict, told: str) -> None:
    with pytest.raises(ParedError, match=told):
        config.build(fields, {}, "run.yaml")


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "model: [", ""])
def test_a_file_that_is_no_run_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        config.read(path)


def test_overrides_reach_nested_keys() -> None:
    assert config.override("search.seed=3") == ("search.seed", 3)
    assert config.override("space.prune.ratio=[0.0, 0.5]") == ("space.prune.ratio", [0.0, 0.5])
    built = config.build(dict(BASE), dict([config.override("space.fp16=false")]), "x")
    assert built.space == {"fp16": False}
    for wrong in ("search.seed", "=3", "a b=1"):
        with pytest.raises(ConfigError, match=r"a\.b=value"):
            config.override(wrong)
    with pytest.raises(ConfigError, match="not a group"):
        config.build(dict(BASE), {"model.x": 1}, "x")
