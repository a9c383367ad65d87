"""A run whose files are in a store: read, killed, restored and resumed from its URL."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from drivers import ended, ends, started, until
from helpers import ALONE, S3, write_run_file

import pared
from pared.evaluators.folder import Folder
from pared.search import study as book
from pared.search.config import build
from pared.search.mirror import journal

WIDE = {**ALONE, "workers": 2}


@pytest.mark.parametrize("key", ["store", "cache"])
def test_a_secret_in_the_run_file_is_refused_and_not_repeated(key: str) -> None:
    fields = {"model": "m:x", "cluster": {key: "s3://AKIA:hush@bucket/run"}}
    with pytest.raises(pared.UserError, match=f"cluster.{key}: a URL with a password or key") as told:
        build(fields, {}, "run.yaml")
    assert "hush" not in str(told.value)


def test_a_wrong_bucket_is_told_before_anything_starts(s3: S3, pared_cli, tmp_path: Path) -> None:
    run_file = write_run_file(tmp_path, cluster={"store": "s3://no-such-bucket/run"})
    began = time.time()
    told = pared_cli("search", run_file, "--out", tmp_path / "run")
    assert told.returncode == 2 and "bucket does not exist" in told.stderr and "Traceback" not in told.stderr
    assert not (tmp_path / "run").exists() and time.time() - began < 60


@pytest.fixture(scope="module")
def stored(s3: S3, tmp_path_factory: pytest.TempPathFactory, pared_cli) -> str:
    """The URL of a finished run whose directory is gone."""
    folder, url = tmp_path_factory.mktemp("stored"), f"s3://{s3.bucket}/finished"
    run_file = write_run_file(folder, search={"trials": 6}, max_accuracy_drop=0.05,
                              cluster={**WIDE, "store": url})
    done = pared_cli("search", run_file, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    assert not (folder / "run" / "artifacts").exists()
    front = json.loads(pared_cli("front", folder / "run", "--json").stdout)
    assert all(point["artifact"] == f"{url}/artifacts/{point['sha256']}.onnx" for point in front["points"])
    assert (folder / "run" / "journal.log").read_bytes() == journal(Folder(url))[0]
    assert "copied to " + url in pared_cli("status", folder / "run").stdout
    told = pared_cli("search", run_file, "--out", folder / "again")
    assert told.returncode == 2 and "holds a run already" in told.stderr, told.stderr
    shutil.rmtree(folder)
    return url


@pytest.mark.slow
@pytest.mark.ray
def test_a_stored_run_is_read_from_its_url(stored: str, pared_cli, tmp_path: Path) -> None:
    status = json.loads(pared_cli("status", stored, "--json").stdout)
    assert status["run"] == stored and status["driver"]["alive"] is False
    assert status["counts"]["asked"] == 6 and status["copy"] is None
    shown = pared_cli("front", stored)
    assert shown.returncode == 0 and f"Pareto set of {stored}" in shown.stdout
    page = pared_cli("report", stored, "-o", tmp_path / "page.html")
    assert page.returncode == 0 and stored in (tmp_path / "page.html").read_text()


@pytest.mark.slow
@pytest.mark.ray
def test_a_stored_run_gives_its_files_and_cards(stored: str, pared_cli, tmp_path: Path) -> None:
    picked = pared_cli("pick", stored, "-o", tmp_path / "mine", "--json")
    assert picked.returncode == 0, picked.stderr
    card = json.loads((tmp_path / "mine" / "model.json").read_text())
    assert card["sha256"] == json.loads(picked.stdout)["sha256"]
    assert (tmp_path / "mine" / "model.onnx").stat().st_size > 1000
    candidate = pared.open_run(stored).front()[0]
    with pytest.raises(pared.UserError, match="export"):
        _ = candidate.path


@pytest.mark.slow
@pytest.mark.ray
def test_a_stored_run_is_verified(stored: str, pared_cli) -> None:
    told = json.loads(pared_cli("verify", stored, "--json").stdout)
    assert told["checks"] and all(c["accuracy"] == c["reported_accuracy"] for c in told["checks"])


@pytest.mark.slow
@pytest.mark.ray
def test_a_stored_run_is_fetched_once(stored: str, pared_cli, tmp_path: Path) -> None:
    assert pared_cli("resume", stored).returncode == 2
    fetched = pared_cli("fetch", stored, tmp_path / "run")
    assert fetched.returncode == 0 and "6 trials" in fetched.stdout, fetched.stderr
    again = pared_cli("fetch", stored, tmp_path / "run")
    assert again.returncode == 2 and "not empty" in again.stderr
    assert pared.open_run(tmp_path / "run").counts().asked == 6


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_driver_whose_disk_is_lost_is_taken_up_from_the_copy(s3: S3, pared_cli, tmp_path: Path) -> None:
    run, url = tmp_path / "run", f"s3://{s3.bucket}/killed"
    driver = started("search", write_run_file(tmp_path, search={"trials": 8}, cluster={**WIDE, "store": url}), "--out", run)
    until(lambda: ended(url, 3))
    live = json.loads(pared_cli("status", url, "--json").stdout)
    assert live["driver"]["alive"] and live["driver"]["pid"] == driver.pid and live["running"]
    second = pared_cli("resume", str(pared.fetch(url, tmp_path / "second").path))
    assert second.returncode == 2 and f"pid {driver.pid};" in second.stderr
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    before = {t.number: t.user_attrs[book.OUTCOME] for t in pared.open_run(url).trials if book.OUTCOME in t.user_attrs}
    lost = ends(run).total() - len(before)
    shutil.rmtree(run)
    assert len(before) >= 3 and lost <= 4  # what ended within the last seconds
    assert pared_cli("fetch", url, tmp_path / "taken").returncode == 0
    resumed = pared_cli("resume", tmp_path / "taken")
    assert resumed.returncode == 0, resumed.stderr
    finished = pared.open_run(url)
    after = {t.number: t.user_attrs[book.OUTCOME] for t in finished.trials}
    assert finished.counts().asked == 8 and finished.counts().running == 0
    assert before.items() <= after.items() and set(ends(tmp_path / "taken").values()) == {1}
    assert (tmp_path / "taken" / "journal.log").read_bytes() == journal(Folder(url))[0]


@pytest.mark.slow
@pytest.mark.ray
def test_a_server_that_goes_away_in_mid_run_corrupts_nothing(s3: S3, pared_cli, tmp_path: Path) -> None:
    """It ends the run with a message, and resume goes on. (`test_folder`, `test_mirror`: a short absence is waited for.)"""
    run, url = tmp_path / "run", f"s3://{s3.bucket}/away"
    driver = started("search", write_run_file(tmp_path, search={"trials": 6}, cluster={**WIDE, "store": url}), "--out", run, stderr=-1)
    until(lambda: ended(run, 2))
    s3.stop()
    try:
        end = time.time() + 100
        while time.time() < end and driver.poll() is None:
            time.sleep(0.2)
    finally:
        s3.start()
    told = driver.communicate(timeout=200)[1]
    assert driver.returncode == 2 and "Could not connect" in told and "Traceback" not in told, told
    assert pared_cli("resume", run).returncode == 0
    finished = pared.open_run(url)
    reasons = [t.user_attrs[book.OUTCOME]["reason"] for t in finished.trials]
    assert finished.counts().asked == 6 and not any("s3://" in reason for reason in reasons)
    assert finished.counts().running == 0 and set(ends(run).values()) == {1}
    assert (run / "journal.log").read_bytes() == journal(Folder(url))[0]
    assert all(candidate.export(tmp_path / "out") for candidate in finished.candidates)
