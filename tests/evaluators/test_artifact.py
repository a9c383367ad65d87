from hashlib import sha256
from pathlib import Path

import pytest

from pared.errors import RunError
from pared.evaluators.artifact import Store


def test_a_file_is_known_by_its_content_and_written_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "deep" / "store"))
    artifact = store.put(b"model")
    assert artifact.sha256 == sha256(b"model").hexdigest() and artifact.size_bytes == 5
    assert store.put(b"model") == artifact
    assert store.get(artifact.sha256) == b"model"
    assert [p.name for p in (tmp_path / "deep" / "store").iterdir()] == [f"{artifact.sha256}.onnx"]


def test_a_changed_or_missing_file_is_told(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    digest = store.put(b"model").sha256
    (tmp_path / f"{digest}.onnx").write_bytes(b"other")
    with pytest.raises(RunError, match="was changed"):
        store.get(digest)
    (tmp_path / f"{digest}.onnx").unlink()
    with pytest.raises(RunError, match="is missing"):
        store.get(digest)


def test_cards_go_both_ways_and_other_file_systems_work(tmp_path: Path) -> None:
    store = Store("memory://pared-test")
    digest = store.put(b"model").sha256
    store.put_card(digest, {"label": "x"})
    assert store.get_card(digest) == {"label": "x"} and store.get(digest) == b"model"


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((RunError, OSError)):
        Store(str(tmp_path / "file" / "store")).put(b"model")


def test_a_file_that_computes_something_else_is_caught(subject: object) -> None:
    import onnx

    from pared.errors import GateError
    from pared.evaluators.artifact import check_faithful
    from pared.evaluators.export import export
    from pared.spaces.subject import example_inputs

    inputs = example_inputs(subject)
    graph = export(subject.model(), inputs)
    check_faithful("nothing", graph, graph, inputs, 0.0)
    sabotaged = onnx.ModelProto()
    sabotaged.CopyFrom(graph)
    weight = next(t for t in sabotaged.graph.initializer if len(t.dims) == 4)
    weight.raw_data = bytes(len(weight.raw_data))
    with pytest.raises(GateError, match="changed the outputs"):
        check_faithful("zeroed", graph, sabotaged, inputs, 0.05)
