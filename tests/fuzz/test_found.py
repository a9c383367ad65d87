"""What fuzzing found, once each."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from pared.errors import ConfigError, GateError, ParedError, ProfileError, RecipeError, RunError, shown
from pared.evaluators.artifact import Store
from pared.evaluators.runtimes import runtime
from pared.hardware_profiles import graph, load
from pared.hardware_profiles.predict import predict
from pared.search import config, console, status
from pared.search.budget import parse
from pared.search.cache import Cache
from pared.search.journal import owned, owner
from pared.search.run import Run
from pared.spaces.recipe import from_json

SEED = Path(__file__).parent / "seeds" / "run"
SHA = "0" * 64
BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SEED, tmp_path / "run"))


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.log").read_text().splitlines()]


def noted(folder: Path, name: str, change: Callable[[Any], Any], at: int = 0) -> None:
    """Changes the note of that name, the `at`th of them, in the journal."""
    lines = records(folder)
    notes = [line["user_attr"] for line in lines if name in line.get("user_attr", ())][at]
    notes[name] = change(notes[name])
    (folder / "journal.log").write_text("".join(json.dumps(line) + "\n" for line in lines))


def with_(*path: str | int, value: Any) -> Callable[[Any], Any]:
    """Sets what lies at a path inside a note."""
    def change(note: Any) -> Any:
        inner = note
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return note
    return change


@pytest.mark.parametrize("text", [
    "[" * 3000, "model: !!timestamp x", "model: !!bool x", "trials: 2026-99-99", BOMB, "model: &a [*a]",
    "profiles: ['a\\0.yaml']".replace("'", '"'), f"model: 0x{'f' * 5000}", 'model: "\\ud800"', "0x1: 2", "- a",
    f"model: a:b\nsearch: {{timeout: {'0' * 60000}!}}", f"model: a:b\nbudgets: {{size: {'0' * 60000}!}}",
    "model: a:b\nbudgets: {size: 1e-320%}", "model: a:b\nsearch: {timeout: 1e999}", "\xff",
])
def test_a_strange_run_file_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yaml").write_text(text, encoding="latin-1")
    began = time.perf_counter()
    with pytest.raises(ParedError, match="run.yaml"):
        config.read(tmp_path / "run.yaml")
    assert time.perf_counter() - began < 5


def test_budgets_that_are_no_group_are_told_also_where_profiles_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: a:b\nbudgets: [1]\n")
    with pytest.raises(ConfigError, match="budgets"):
        config.read(tmp_path / "run.yaml", profiles=["host-cpu"])


def test_no_budget_is_so_small_that_nothing_can_be_divided_by_it() -> None:
    for text in ("1e-320%", "1e-300ms"):
        with pytest.raises(ParedError, match="cannot be read"):
            parse(text, "latency")


def test_a_message_shows_any_value_in_short() -> None:
    assert shown("x" * 1000).startswith("'xxx") and len(shown("x" * 1000)) < 150
    assert "digits" in shown(1 << 20000)


@pytest.mark.parametrize(("text", "told"), [
    ("extends: [a]", "extends"), ("extends: ../run/mine.yaml", "extends itself"), ("[" * 3000, "nested"),
    ('extends: host-cpu\nname: x\nbackend: {kind: table, path: "a\\0b"}', "backend"),
    ("extends: host-cpu\nname: x\nlaunch_overhead: {value: 1.0e-320, unit: us, src: assumed, basis: assumed, rel_sd: 0}", "launch_overhead"),
    ("extends: host-cpu\nname: x\nprecisions: {fp32: {native: true, weight_bytes: .inf, activation_bytes: 4}}", "weight_bytes"),
    ("extends: host-cpu\nname: x\ncalibration: {fp32: {form: x, coefficients: {once: -1}, doubt: 1, loo_mape: 0, models: 1}}", "coefficients"),
    ("extends: host-cpu\nname: x\ncalibration: {fp32: {form: x, coefficients: {}, log_covariance: [[1, 2]], doubt: 1, loo_mape: 0, models: 1}}", "triangle"),
])
def test_a_strange_profile_is_refused(folder: Path, text: str, told: str) -> None:
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(ProfileError, match=told):
        load.load(folder / "mine.yaml")


@pytest.mark.parametrize("line", [
    "{}", "[]", "1", '{"op_code":99}', '{"op_code":8,"worker_id":"w","trial_id":0,"user_attr":1}', "[" * 100000,
    '{"op_code":4,"worker_id":"w","study_id":0}', '{"op_code":6,"worker_id":"w","trial_id":0,"state":77,"values":null}',
    '{"op_code":2,"worker_id":"w","study_id":0,"user_attr":{}}', '{"op_code":0,"worker_id":"w","study_name":"x","directions":[9]}',
])
def test_a_damaged_record_of_the_journal_is_told(folder: Path, line: str) -> None:
    lines = (folder / "journal.log").read_text().splitlines()
    (folder / "journal.log").write_text("\n".join([*lines[:6], line, *lines[6:]]) + "\n")
    with pytest.raises(RunError, match="damaged"):
        _ = Run(folder).trials


@pytest.mark.parametrize(("name", "change"), [
    ("outcome", lambda _: []), ("outcome", lambda _: None), ("outcome", with_("metrics", value={})),
    ("outcome", with_("metrics", "size_bytes", "value", value=0)), ("outcome", with_("metrics", "accuracy", "value", value="1")),
    ("outcome", with_("metrics", "latency_ms@host-cpu", "value", value=-1.0)),
    ("outcome", with_("metrics", "latency_ms@host-cpu", "value", value=float("nan"))),
    ("outcome", with_("metrics", "latency_ms@host-cpu", "strange", value=1)), ("outcome", with_("drop", value={})),
    ("outcome", with_("state", value="great")), ("outcome", with_("notes", value=["\ud800"])),
    ("outcome", with_("sha256", value="../../x")), ("ended", lambda _: "late"), ("started", lambda _: None),
    ("repeat_of", lambda _: "x"), ("untouched", lambda _: {"sha256": SHA}), ("untouched", with_("size_bytes", value=0)),
    ("trained", lambda _: {"x": [1]}),
])
def test_a_note_of_the_wrong_shape_is_a_damaged_run(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    noted(folder, name, change)
    with pytest.raises(RunError, match="damaged"):
        _ = Run(folder).candidates


@pytest.mark.parametrize(("profile", "file"), [
    ("../../stray", f"{SHA}.tflite"), ("ethos-u55-256", "../../run.yaml"), ("ethos-u55-256", f"{SHA}./../../x"),
    ("/tmp/x", f"{SHA}.tflite"), ("ethos-u55-256", "/etc/passwd"),
])
def test_no_file_of_a_journal_leads_out_of_its_folder(folder: Path, profile: str, file: str) -> None:
    noted(folder, "outcome", with_("shipped", value={profile: file}))
    with pytest.raises(RunError, match="damaged"):
        _ = Run(folder).candidates
    assert {path.name for path in folder.parent.iterdir()} == {"run"}


@pytest.mark.parametrize("name", ["../run.yaml", "x", f"{SHA}/../../x", "/etc/passwd", ""])
def test_a_store_reads_what_is_named_by_a_sha256_alone(folder: Path, name: str) -> None:
    with pytest.raises(RunError, match="names no artefact"):
        Store(str(folder / "artifacts")).get_file(name)


def test_a_recipe_that_is_none_is_a_damaged_run(folder: Path) -> None:
    noted(folder, "recipe", lambda _: '{"version":1,"steps":[{"pass":"recover"}]}')
    with pytest.raises(RunError, match="trial 0 is damaged"):
        _ = Run(folder).candidates


@pytest.mark.parametrize("step", [
    '{"pass":"fp16","x":1}', '{"pass":["fp16"]}', '{"pass":"student","which":5}', '{"pass":"student","which":"\\ud800"}',
    '{"pass":"low_rank","rank":"half","width_step":8}', '{"pass":"low_rank","rank":NaN,"width_step":8}',
    '{"pass":"depth","blocks":5}', '{"pass":"depth","blocks":[["a"]]}', f'{{"pass":"heads","ratio":{"9" * 400}}}',
    '{"pass":"weight_only","bits":true,"block":32,"symmetric":true}', "7", "[" * 100000,
])
def test_steps_of_a_recipe_have_the_types_of_their_fields(step: str) -> None:
    with pytest.raises(RecipeError):
        from_json(f'{{"version":1,"steps":[{step}]}}')


def test_an_integer_stands_for_a_float_and_the_digest_stays(folder: Path) -> None:
    text = '{"steps":[{"pass":"low_rank","rank":1,"width_step":8}],"version":1}'
    assert from_json(text).json == text


def test_text_of_a_run_is_no_markup(folder: Path) -> None:
    noted(folder, "outcome", with_("notes", value=["[/bold] [red]"]))
    run = Run(folder)
    assert any("\\[/bold]" in line for line in console.picked_lines(run.pick(trial=0)))
    assert "[/bold] [red]" in run.report(folder / "report.html").read_text()


def test_a_prediction_without_an_interval_can_be_picked(folder: Path) -> None:
    def change(outcome: Any) -> Any:
        latency = outcome["metrics"]["latency_ms@host-cpu"]
        latency["calibrated"] = False
        latency.pop("low")
        return outcome

    lines = (folder / "journal.log").read_text().splitlines(keepends=True)
    (folder / "journal.log").write_text("".join(line for line in lines if "final:" not in line))
    noted(folder, "outcome", change)
    assert "ranking only" in " ".join(Run(folder).pick("host-cpu", trial=0).notes)


def test_a_profile_without_any_figure_is_absent(folder: Path) -> None:
    (folder / "run.yaml").write_text("model: a:b\nprofiles: [host-cpu, rpi4-ort-cpu]\n")
    run = Run(folder)
    assert run.candidates[0].absent["rpi4-ort-cpu"] == "no figure" and console.front_tables(run)
    assert any("no figure" in line for line in console.picked_lines(run.pick("rpi4-ort-cpu", trial=0)))


@pytest.mark.parametrize("text", ["[]", "1", '{"started":"x"}', '{"running":[{}]}', "[" * 100000, "\xff", "\xb2"])
def test_a_damaged_status_or_owner_is_none(folder: Path, text: str) -> None:
    for name in ("status.json", "owner"):
        (folder / name).write_text(text, encoding="latin-1")
    found = status.status(folder)
    assert found["running"] == [] and owner(folder) is None
    with owned(folder):
        (folder / "owner").write_text(text, encoding="latin-1")
        assert status.status(folder)["driver"]["pid"] in (None, 1)


@pytest.mark.parametrize("change", [
    with_("int8", value={}), with_("bits", "head.weight", value={"8": 0.1}), with_("layers", value=[]),
    with_("examples", value=float("inf")), with_("bits", "head.weight", "8", value=float("nan")), lambda _: [], lambda _: None,
    with_("layers", "head.weight", "kernels", 0, "dtype", value="int3"),
])
def test_a_damaged_card_of_sensitivities_is_none(folder: Path, change: Callable[[Any], Any]) -> None:
    card = folder / "artifacts" / "sensitivity-0.json"
    assert Run(folder).sensitivity
    card.write_text(json.dumps(change(json.loads(card.read_text()))))
    assert Run(folder).sensitivity is None


@pytest.mark.parametrize("text", ["", "[1]", "\xff", "[" * 100000])
def test_a_damaged_card_is_told(folder: Path, text: str) -> None:
    (folder / "artifacts" / f"{SHA}.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match="card"):
        Store(str(folder / "artifacts")).get_card(SHA)


@pytest.mark.parametrize("content", [b"[]\n", b"[" * 100000, b"1\n", b'{"sha256":[]}\n'])
def test_a_strange_entry_of_the_cache_is_a_miss(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert Cache(str(tmp_path)).get("x") is None


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"PK\x05\x06" + bytes(18) + b"x", b""])
def test_an_entry_without_arrays_is_a_miss(tmp_path: Path, content: bytes) -> None:
    cache = Cache(str(tmp_path))
    cache.put("x", content)
    assert cache.get("x") and not cache.arrays("x")


def model(tensor: TensorProto, *nodes: onnx.NodeProto, inputs: tuple[int, ...] | None = (1, 2)) -> bytes:
    given = [] if inputs is None else [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made = helper.make_model(helper.make_graph(list(nodes), "g", given, [out], [tensor]),
                             opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(made.SerializeToString())


ADD = helper.make_node("Add", ["x", "w"], ["y"])
WHOLE = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
SHORT = TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[4], raw_data=b"\0\0")
FAR = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL,
                  external_data=[onnx.StringStringEntryProto(key="location", value="../../etc/passwd")])


@pytest.mark.parametrize(("content", "told"), [
    (b"\xff\xff", "no ONNX file"), (model(SHORT, ADD), "'w' is damaged"), (model(FAR, ADD), "in another file"),
    (model(WHOLE, helper.make_node("Nothing", ["x"], ["y"])), "Nothing"),
    (model(WHOLE, ADD, onnx.NodeProto(overload="x")), "has no output"),
    (model(WHOLE, helper.make_node("Einsum", ["x", "x"], ["y"])), "cannot read the graph"),
])
def test_a_file_that_is_no_model_is_told(content: bytes, told: str) -> None:
    with pytest.raises(GateError, match=told):
        graph.read(content)


def test_a_file_that_does_not_take_batches_is_refused() -> None:
    scalar = model(WHOLE, ADD, inputs=())
    constant = model(WHOLE, helper.make_node("Identity", ["w"], ["y"]), inputs=None)
    for content in (scalar, constant):
        with pytest.raises(GateError, match="batch"):
            runtime("onnxruntime").load(content, 1)


def test_inputs_that_a_file_does_not_take_are_told() -> None:
    session = runtime("onnxruntime").load(model(WHOLE, ADD), 1)
    with pytest.raises(GateError, match="cannot run"):
        session.run(())


def test_what_is_refused_leaves_stdout_alone(capfd: pytest.CaptureFixture[str]) -> None:
    bad = onnx.ModelProto.FromString(model(WHOLE, ADD))
    bad.graph.node[0].op_type = "Attention"
    with pytest.raises(GateError):
        graph.read(bad.SerializeToString().replace(b"Attention", b"Attenti\xffn"))
    assert capfd.readouterr().out == ""


def test_a_calibrated_profile_still_predicts(folder: Path) -> None:
    kernels = graph.read(model(WHOLE, ADD))
    assert predict(kernels, load.load("rpi4-ort-cpu")).latency_ms > 0
