import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, load_tiny, write_run_file
from torch import Tensor, nn

import pared
from pared.errors import ConfigError, GateError, RunError, SubjectError
from pared.evaluators.artifact import Store
from pared.evaluators.devices import Reading
from pared.evaluators.export import export
from pared.evaluators.subjects.students import find_students
from pared.hardware_profiles.load import load
from pared.search.records import Job
from pared.search.trial import Bench, run
from pared.spaces import space
from pared.spaces.materials import Materials
from pared.spaces.passes import Scope, student
from pared.spaces.passes.recover import Recover, RecoverPass
from pared.spaces.passes.student import Student, StudentPass
from pared.spaces.recipe import Recipe
from pared.spaces.subject import example_inputs
from pared.spaces.taps import taps
from pared.spaces.teaching import remembered

FILE = TINY.parent / "students.py"
Cli = Callable[..., subprocess.CompletedProcess[str]]


def factories(subject: Any, *names: str) -> dict[str, Callable[[], nn.Module]]:
    load_tiny()
    return find_students({name: f"./students.py:{name}" for name in names}, subject, FILE.parent)


def test_a_student_is_the_same_for_a_seed_and_leaves_the_generator_alone(subject: Any) -> None:
    builds, model = factories(subject, "small"), subject.model()
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = (StudentPass().apply(Student("small"), model, Materials(subject, seed, students=builds))
                       for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), want)
    assert torch.equal(one.head.weight, two.head.weight) and not torch.equal(one.head.weight, other.head.weight)
    assert not one.training


@pytest.mark.parametrize("transfer", ["none", "features", "attention"])
def test_a_student_learns_from_the_model(subject: Any, transfer: str) -> None:
    kinds = tuple({transfer} - {"none"})
    paths = taps(subject.model(), example_inputs(subject))
    teacher = remembered(subject.model(), subject.split("train"), paths, kinds)
    materials = Materials(subject, 0, teacher, students=factories(subject, "small"))
    fresh = StudentPass().apply(Student("small"), subject.model(), materials)
    trained = RecoverPass().train(Recover(8, 1e-2, 4.0, 0.8, transfer, 1.0), fresh, materials)
    validation = subject.split("validation")
    with torch.inference_mode():
        outputs = trained(torch.from_numpy(validation.inputs[0])).numpy()
    assert subject.score(outputs, validation.targets).mean() > 0.5


@pytest.mark.parametrize(("name", "told"), [
    ("five_classes", "outputs of shape"), ("module", "function without arguments"), ("raises", "no weights here"),
    ("no_module", "returned a str"), ("colour", "refuses inputs of shape"), ("missing", "has no 'missing'"),
])
def test_wrong_students_are_told(subject: Any, name: str, told: str) -> None:
    with pytest.raises(SubjectError, match=told) as error:
        factories(subject, name)
    assert f"students.{name}" in str(error.value)


def scope(**changes: Any) -> Scope:
    fields = {"stages": ("stage1",), "operators": {"Conv": 0.9}, "profiles": (load("host-cpu"),),
              "students": ("small", "narrow"), **changes}
    return Scope(**fields)


def test_each_student_is_tried_first_with_a_long_training() -> None:
    built = space.build(scope(), {})
    recipes = [built.decode(values) for values in built.anchors()]
    found = [recipe.steps for recipe in recipes if recipe.names == ("student", "recover")]
    assert {steps[0].which for steps in found} == {"small", "narrow"}
    assert {steps[1].epochs for steps in found} == {16}
    assert {r.steps[-1].epochs for r in recipes if r.names == ("prune", "recover")} == {3}


def test_students_are_not_offered_where_there_are_none_or_layers_are_kept() -> None:
    assert "names no students" in space.build(scope(students=()), {}).left_out["student"]
    assert "kept" in space.build(scope(keep=("head",)), {}).left_out["student"]
    with pytest.raises(ConfigError, match="names no students"):
        space.build(scope(students=()), {"student": True})


@pytest.mark.parametrize(("sabotage", "told"), [
    (lambda subject: subject.model(), "the model itself"), (lambda subject: nn.Identity(), "an example")])
def test_the_gate_catches_a_pass_that_gives_no_student(
    subject: Any, monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[Any], nn.Module], told: str
) -> None:
    monkeypatch.setattr(student, "fresh", lambda build, seed: sabotage(subject))
    with pytest.raises(GateError, match=told):
        StudentPass().apply(Student("small"), subject.model(), Materials(subject, students={"small": nn.Identity}))
    with pytest.raises(GateError, match="did you mean 'small'"):
        StudentPass().apply(Student("smal"), subject.model(), Materials(subject, students={"small": nn.Identity}))


def bench(subject: Any, store: Path, teacher: Any = None) -> Bench:
    """For trials of one student, whose files all take one millisecond."""
    file = export(subject.model(), example_inputs(subject)).SerializeToString()
    untouched = Store(str(store)).put(file).sha256
    return Bench(subject, (load("host-cpu"),), str(store), 1, 0, untouched, {"validation": np.ones(800)},
                 {"host-cpu": 1.0}, {}, teacher, students=factories(subject, "small"))


def measured(*_: Any) -> Reading:
    return Reading(1.0, 1.0, None, None)


class Counted(nn.Module):
    """Only the untouched model has one; it counts how many examples went through any of them."""

    examples = 0

    def forward(self, x: Tensor) -> Tensor:
        Counted.examples += len(x)
        return x


def test_the_untouched_model_does_not_run_in_a_trial(subject: Any, tmp_path: Path) -> None:
    def counted() -> nn.Module:
        return nn.Sequential(load_tiny().trained(), Counted())

    data = {name: (subject.split(name).inputs[0], subject.split(name).targets)
            for name in ("train", "validation", "test")}
    ours = pared.Classification(counted, **data)
    teacher = remembered(ours.model(), ours.split("train"), taps(ours.model(), example_inputs(ours)), ("features",))
    trial = bench(ours, tmp_path, teacher)
    Counted.examples = 0
    recipe = Recipe((Student("small"), Recover(1, 3e-3, 4.0, 0.8, "features", 1.0)))
    outcome = run(Job(0, recipe.json), trial, measured, lambda _: None)
    assert outcome.state == "complete", outcome.reason
    assert Counted.examples == 0
    ours.model()(torch.zeros(3, 1, 14, 14))
    assert Counted.examples == 3


@pytest.mark.slow
def test_a_note_of_a_training_reaches_the_outcome(subject: Any, tmp_path: Path) -> None:
    class Spoilt(pared.Classification):
        calls = 0

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.calls += 1
            return super().loss(outputs, targets) * (float("nan") if self.calls == 3 else 1)

    data = {name: (subject.split(name).inputs[0], subject.split(name).targets)
            for name in ("train", "validation", "test")}
    trial = bench(Spoilt(subject.model, **data), tmp_path)
    recipe = Recipe((Student("small"), Recover(1, 3e-3, 4.0, 0.0)))
    outcome = run(Job(0, recipe.json), trial, measured, lambda _: None)
    assert outcome.state == "complete" and "rolled back to the start" in outcome.notes[0]


@pytest.mark.slow
@pytest.mark.ray
def test_a_search_with_students_can_be_resumed(tmp_path: Path, pared_cli: Cli) -> None:
    off = dict.fromkeys(("prune", "depth", "heads", "low_rank", "sparsify", "fp16", "weight_only", "int8_nncf",
                         "mixed_int8", "mixed", "binary", "qat"), False)
    known = {name: value for name, value in off.items() if name in space.PASSES}
    run_file = write_run_file(
        tmp_path, students={"small": f"{FILE}:small"}, search={"trials": 5},
        space={**known, "recover": {"epochs": [1, 2]}})
    result = pared_cli("search", run_file, "--out", tmp_path / "run", "--json")
    assert result.returncode == 0, result.stderr
    labels = [candidate.recipe.label for candidate in pared.open_run(tmp_path / "run").candidates]
    assert any(label.startswith("student small + recover") for label in labels)
    again = pared_cli("resume", tmp_path / "run", "--trials", 6, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["counts"]["asked"] == 6


@pytest.mark.parametrize(("reference", "told"), [
    ("five_classes", "the model (2, 10)"), ("missing", "has no 'missing'")])
def test_a_wrong_student_ends_with_exit_code_2_and_nothing_written(
    tmp_path: Path, pared_cli: Cli, reference: str, told: str
) -> None:
    run_file = write_run_file(tmp_path, students={"small": f"{FILE}:{reference}"})
    result = pared_cli("search", run_file, "--out", tmp_path / "run")
    assert result.returncode == 2 and told in result.stderr and "students.small" in result.stderr
    assert not (tmp_path / "run").exists()


def test_students_given_in_python_are_needed_again(subject: Any, tmp_path: Path) -> None:
    from pared.search.api import IN_PYTHON, _named, start
    from pared.search.config import build

    config = build({"model": "a:b", "students": {"small": IN_PYTHON}}, {}, "test")
    with pytest.raises(ConfigError, match="small were given in Python; resume"):
        _named(config, None)
    with pytest.raises(ConfigError, match="without other"):
        _named(config, {"other": nn.Identity, "small": nn.Identity})
    assert _named(config, {"small": nn.Identity}) == {"small": nn.Identity}
    (tmp_path / "thing").write_text("")
    with pytest.raises(RunError):
        start(config, subject, tmp_path, tmp_path)
