"""The same contract on a local folder, in memory, and on a real S3-compatible server."""

import sys
import threading
from pathlib import Path

import pytest
from fsspec.registry import _registry
from helpers import S3

from pared.errors import ConfigError, MissingExtraError, RunError
from pared.evaluators.artifact import Store
from pared.evaluators.folder import Folder, check_secretless
from pared.search.cache import Cache, key


@pytest.fixture(params=["local", "file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        request.getfixturevalue("s3")
    return {"local": str(tmp_path / "deep"), "file": f"file://{tmp_path}/deep",
            "memory": f"memory://{tmp_path.name}", "s3": f"s3://{S3.bucket}/{tmp_path.name}"}[request.param]


def test_what_was_written_last_is_what_any_reader_sees(url: str) -> None:
    writer, reader = Folder(url), Folder(f"{url}/")
    assert reader.read("a") is None and not reader.has("a") and reader.files() == []
    writer.write("a", b"1")
    assert reader.has("a") and reader.read("a") == b"1"
    writer.write("a", b"two")
    writer.write("below/b", b"3")
    assert reader.read("a") == b"two" and reader.read("below/b") == b"3"
    assert [(file.name, file.size_bytes) for file in reader.files()] == [("a", 3)]
    assert reader.files()[0].time > 1.7e9
    writer.remove("a")
    writer.remove("a")
    assert not reader.has("a") and reader.read("a") is None and reader.files() == []


def test_a_check_leaves_nothing_behind(url: str) -> None:
    Folder(url).check()
    assert Folder(url).files() == []


def test_artefacts_and_cards_are_found_again(url: str) -> None:
    store = Store(url)
    digest = store.put(b"model").sha256
    assert store.put(b"model").sha256 == digest and Store(url).get(digest) == b"model"
    assert not store.has_card(digest)
    store.put_card(digest, {"label": "x"})
    store.put_card("sensitivity-1", {})
    assert store.has_card(digest) and store.get_card(digest) == {"label": "x"}
    assert store.cards("sensitivity-") == ["sensitivity-1"]
    absent = "0" * 64
    with pytest.raises(RunError, match=rf"artefact {absent}.onnx is missing from"):
        store.get(absent)


def test_a_cache_keeps_and_cuts(url: str) -> None:
    cache = Cache(url)
    for name in "abc":
        cache.put(key(name), b"x" * 1000, of=name)
    found = Cache(url).get(key("b"))
    assert found and found.content == b"x" * 1000 and found.notes == {"of": "b"}
    assert cache.gc(1500) == (2, sum(entry.size_bytes for entry in cache.entries()) * 2)


def test_a_bucket_that_is_not_there_is_told_and_not_made(s3: S3) -> None:
    store = Store("s3://no-such-bucket/run")
    with pytest.raises(RunError, match="cannot write .*no-such-bucket.*: The specified bucket does not exist"):
        store.put(b"model")
    with pytest.raises(RunError, match="bucket does not exist"):
        Folder("s3://no-such-bucket/run").check()
    cache = Cache("s3://no-such-bucket/cache")
    cache.put(key("a"), b"1")
    assert cache.get(key("a")) is None


def test_a_server_that_does_not_answer_is_told(s3: S3) -> None:
    s3.stop()
    try:
        with pytest.raises(RunError, match="cannot write .pared-probe .*: Could not connect"):
            Folder(f"s3://{s3.bucket}/run", patient=False).check()
    finally:
        s3.start()


@pytest.mark.slow
def test_a_server_that_is_away_for_some_seconds_is_waited_for(s3: S3) -> None:
    folder = Folder(f"s3://{s3.bucket}/patient")
    folder.write("a", b"1")
    s3.stop()
    timer = threading.Timer(4, s3.start)
    timer.start()
    try:
        folder.write("a", b"2")
    finally:
        timer.join()
    assert folder.read("a") == b"2"


@pytest.mark.parametrize("url", [
    "s3://AKIA:secret@bucket/run", "s3://AKIA:se/cr/et@bucket/run", "postgresql://me:secret@host/db",
    "postgresql://host/db?user=me&password=secret", "https://host/run?X-Amz-Security-Token=secret",
])
def test_a_url_with_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="password or key") as told:
        Folder(url)
    assert "secret" not in str(told.value).replace("the secret in", "") and "cr/et" not in str(told.value)


@pytest.mark.parametrize("url", ["s3://bucket/me@host/run", "sftp://me@host/run", "postgresql://me@host:5432/db"])
def test_a_url_with_a_user_alone_has_no_secret(url: str) -> None:
    check_secretless(url)


def test_what_to_install_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'pared\[s3\]'"):
        Folder("s3://bucket/run")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pared\[gs\]'"):
        Folder("gs://bucket/run")
    with pytest.raises(ConfigError, match="nowhere://x.*allowed"):
        Folder("nowhere://x")
