from hashlib import sha256
from pathlib import Path

import pytest

from pared.errors import RunError
from pared.evaluators.store import Store


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
