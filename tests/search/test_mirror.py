"""The copy of a run follows its journal, never mixes two runs, and never disturbs the driver."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import pytest
from helpers import S3, TINY
from optuna.storages import JournalStorage

from pared.errors import RunError
from pared.evaluators.folder import Folder
from pared.search import lease, mirror
from pared.search.api import fetch, keep_config
from pared.search.config import RunConfig, build
from pared.search.journal import NAME, SingleWriterJournal
from pared.search.lease import Holder, Lease, holder
from pared.search.mirror import COPY, Mirror, journal, mirrored


@pytest.fixture
def url(s3: S3, tmp_path: Path) -> str:
    return f"s3://{s3.bucket}/{tmp_path.parent.name}-{tmp_path.name}"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "EVERY_S", 0.1)


def made(folder: Path, url: str) -> RunConfig:
    """A run directory that is about to start."""
    config = build({"model": f"{TINY}:subject", "cluster": {"store": url}}, {}, "here")
    folder.mkdir()
    keep_config(folder, config)
    return config


@contextmanager
def study(run: Path) -> Iterator[optuna.Study]:
    backend = SingleWriterJournal(run / NAME)
    yield optuna.create_study(study_name="s", storage=JournalStorage(backend), load_if_exists=True)
    backend.close()


def until(url: str, size: int) -> None:
    end = time.time() + 20
    while len(journal(Folder(url))[0]) < size:
        assert time.time() < end, "the copy did not follow"
        time.sleep(0.05)


def told(run: Path) -> dict:
    return json.loads((run / COPY).read_text())


def test_the_copy_follows_in_whole_lines_and_segments(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "FULL", 800)
    run = tmp_path / "run"
    config = made(run, url)
    with mirrored(run, config, new=True), study(run) as s:
        for value in range(10):
            s.tell(s.ask(), value)
            until(url, (run / NAME).stat().st_size)
        with (run / NAME).open("ab") as file:
            file.write(b'{"op_code": 4, "worker')  # a line that is not written to its end
        time.sleep(0.3)
        assert told(run)["error"] == "" and time.time() - told(run)["time"] < 2
        assert holder(Folder(url)) is not None
    whole = (run / NAME).read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    assert journal(Folder(url))[0] == whole and holder(Folder(url)) is None
    segments = Folder(f"{url}/journal").files()
    assert 2 < len(segments) < 8 and all(info.size_bytes < 4000 for info in segments)
    assert Folder(url).read("run.yaml") == (run / "run.yaml").read_bytes()

    there = fetch(url, tmp_path / "there").path
    assert (there / NAME).read_bytes() == whole
    with mirrored(there, config), study(there) as s:
        assert [t.value for t in s.trials] == list(range(10))
        s.tell(s.ask(), 10)
    assert journal(Folder(url))[0] == (there / NAME).read_bytes()
    with pytest.raises(RunError, match=r"is ahead of .*pared fetch"), mirrored(run, config):
        pass
    with study(run) as s:
        s.tell(s.ask(), 11)
    with pytest.raises(RunError, match="went on without"), mirrored(run, config):
        pass


def test_profiles_come_along_and_files_of_others_do_not(url: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = made(run, url)
    (run / "profiles").mkdir()
    (run / "profiles" / "my-pi@5.yaml").write_text("name: my-pi")
    (run / "profiles" / "notes.txt").write_text("mine")
    with mirrored(run, config, new=True), study(run):
        pass
    assert [info.name for info in Folder(f"{url}/profiles").files()] == ["my-pi@5.yaml"]
    Folder(url).write("profiles/..yaml", b"x")
    there = fetch(url, tmp_path / "there").path
    assert [path.name for path in (there / "profiles").iterdir()] == ["my-pi@5.yaml"]
    assert (there / "profiles" / "my-pi@5.yaml").read_text() == "name: my-pi"


def test_a_run_that_never_got_a_study_leaves_nothing_behind(url: str, tmp_path: Path) -> None:
    config = made(tmp_path / "run", url)
    with pytest.raises(ValueError), mirrored(tmp_path / "run", config, new=True):
        time.sleep(0.3)
        raise ValueError
    assert Folder(url).files() == []


def test_a_place_that_holds_a_run_is_not_taken_for_a_new_one(url: str, tmp_path: Path) -> None:
    config = made(tmp_path / "run", url)
    with mirrored(tmp_path / "run", config, new=True), study(tmp_path / "run"):
        pass
    with pytest.raises(RunError, match="holds a run already; `pared fetch"), mirrored(tmp_path / "other", config, new=True):
        pass


@pytest.mark.slow
def test_a_store_that_is_away_disturbs_nobody_and_is_caught_up_with(s3: S3, url: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = made(run, url)
    with mirrored(run, config, new=True) as still_ours, study(run) as s:
        s.tell(s.ask(), 1)
        until(url, (run / NAME).stat().st_size)
        s3.stop()
        try:
            for value in range(5):
                s.tell(s.ask(), value)
            end = time.time() + 30
            while not told(run)["error"]:
                assert time.time() < end
                time.sleep(0.1)
            still_ours()
            assert "Could not connect" in told(run)["error"]
        finally:
            s3.start()
        until(url, (run / NAME).stat().st_size)
    assert told(run)["error"] == ""


def test_a_second_driver_is_refused_while_the_first_gives_signs_of_life(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LOOK_S", 0.1)
    first, second = Lease(Folder(url)), Lease(Folder(url))
    with first.held():
        sign = threading.Timer(0.5, first.renew)
        sign.start()
        with pytest.raises(RunError, match=f"driven by .*, pid {os.getpid()}"), second.held():
            pass
        sign.join()


def test_a_driver_that_gave_no_sign_of_life_is_followed_by_another(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LOOK_S", 0.1)
    monkeypatch.setattr(lease, "STALE_S", 0.5)
    folder, first, second = Folder(url), Lease(Folder(url)), Lease(Folder(url))
    with first.held():
        began = time.time()
        with second.held():
            assert 0.3 < time.time() - began < 10
            assert second.renew() and not first.renew()
        assert holder(folder) is None and not first.renew()


def test_a_dead_process_of_this_machine_holds_nothing(url: str) -> None:
    folder = Folder(url)
    mine = Lease(folder)
    with mine.held():
        found = holder(folder)
        assert found and found.alive
        assert not replace(found, pid=2**22 - 1).alive
        assert replace(found, pid=2**22 - 1, boot="another machine").alive
        assert not replace(found, boot="another machine", time=found.time - 61).alive
    folder.write(lease.NAME, json.dumps(asdict(found))[:-9].encode())
    assert holder(folder) is None


def test_a_driver_that_lost_its_run_stops_and_copies_no_more(url: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = made(run, url)
    other = Holder("elsewhere", "x", 1, "theirs", time.time())
    with mirrored(run, config, new=True) as still_ours, study(run) as s:
        s.tell(s.ask(), 1)
        until(url, (run / NAME).stat().st_size)
        before = journal(Folder(url))[0]
        Folder(url).write(lease.NAME, json.dumps(asdict(other)).encode())
        end = time.time() + 10
        with pytest.raises(RunError, match="another driver has taken over"):
            while time.time() < end:
                still_ours()
                time.sleep(0.05)
        s.tell(s.ask(), 2)
    assert journal(Folder(url))[0] == before and holder(Folder(url)) == other


def test_a_missing_segment_is_told(url: str) -> None:
    folder = Folder(url)
    folder.write("journal/000000000000.log", b"12345\n")
    folder.write("journal/000000000009.log", b"12345\n")
    with pytest.raises(RunError, match="lacks the segment before 000000000009"):
        journal(folder)


@pytest.mark.parametrize("place", ["s3://runs/nothing-here", "memory://nothing-here"])
def test_a_url_without_a_run_is_told(s3: S3, tmp_path: Path, place: str) -> None:
    with pytest.raises(RunError, match=f"{place} is not a run"):
        mirror.at(place)
    with pytest.raises(RunError, match="is not a run"):
        fetch(place, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_store_is_asked_before_anything_starts(s3: S3, tmp_path: Path) -> None:
    config = made(tmp_path / "run", "s3://no-such-bucket/run")
    with pytest.raises(RunError, match=r"cluster.store: .*bucket does not exist; allowed: .*environment"), mirrored(tmp_path / "run", config):
        pass
    assert isinstance(Mirror(tmp_path, "memory://x"), Mirror)  # reaches nothing yet
