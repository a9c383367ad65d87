"""A study in SQLite or PostgreSQL instead of the journal: the same run, the same words."""

import getpass
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from drivers import ended, started, until
from helpers import ALONE, S3, TINY, free_port, write_run_file

import pared
from pared.errors import MissingExtraError, RunError
from pared.search import database
from pared.search import study as book
from pared.search.config import RunConfig, build

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class Postgres:
    """A server on loopback with a password, run by another user where this one is root: it insists."""

    def __init__(self, folder: Path) -> None:
        self.data, self.port = folder / "data", free_port()
        secret = folder / "secret"
        secret.write_text("hush")
        self.user = "postgres" if os.getuid() == 0 else getpass.getuser()
        if os.getuid() == 0:
            for path in (folder, secret):
                shutil.chown(path, self.user)
        self.call("initdb", "-D", self.data, "-U", "me", f"--pwfile={secret}", "-A", "scram-sha-256")
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        self.call("pg_ctl", "-D", self.data, "-l", self.data.parent / "log", "-w", "-o", options, "start")

    def stop(self) -> None:
        self.call("pg_ctl", "-D", self.data, "-m", "immediate", "stop")

    def call(self, *command: object) -> None:
        binary = [str(BINARIES[-1] / str(command[0])), *map(str, command[1:])]
        own = {"user": self.user} if os.getuid() == 0 else {}
        subprocess.run(binary, check=True, stdout=subprocess.DEVNULL, cwd=self.data.parent, **own)

    @property
    def url(self) -> str:
        return f"postgresql://me@127.0.0.1:{self.port}/postgres"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if not BINARIES:
        pytest.skip("no PostgreSQL on this machine")
    # Not below the folder of pytest, which another user may not enter.
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        server = Postgres(Path(folder))
        patch.setenv("PGPASSWORD", "hush")
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/runs.db"
    return request.getfixturevalue("postgres").url


def made(storage: str) -> RunConfig:
    return build({"model": f"{TINY}:subject", "cluster": {"storage": storage}}, {}, "here")


def test_runs_share_a_database_and_not_a_study(storage: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        assert book.found(run, storage) is None
        with book.opened(run, made(storage), optuna.samplers.RandomSampler(seed=0)) as (study, group), group():
            trial = study.ask()
            trial.set_user_attr("of", name)
            trial.set_constraint("budgets", -1.0)
            study.tell(trial, [0.5, 1e9, 3.0])
            found = database.found(run, storage)
            assert found is not None
            seen = found.trials
            assert [t.user_attrs["of"] for t in seen] == [name] and seen[0].values == [0.5, 1e9, 3.0]
        assert not (run / "journal.log").exists() and "hush" not in (run / book.IN_DATABASE).read_text()
    with book.opened(run, made(storage), optuna.samplers.RandomSampler(seed=0)) as (study, _):
        assert len(study.trials) == 1 and study.metric_names == ["accuracy", "latency_ms@host-cpu", "size_bytes"]


@pytest.mark.parametrize(("storage", "told"), [
    ("postgresql://me:hush@host/db", "password or key"), ("mysql://me@host/db", "a storage is written sqlite"),
    ("sqlite://", "a storage is written"), ("runs.db", "a storage is written"),
])
def test_what_is_no_storage_is_refused(storage: str, told: str) -> None:
    with pytest.raises(pared.UserError, match=told) as error:
        made(storage)
    assert "hush" not in str(error.value)


def test_a_database_out_of_reach_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"cluster.storage sqlite.*unable to open.*allowed"):
        database.check(f"sqlite:///{tmp_path}/none/runs.db")
    nobody = f"postgresql://me@127.0.0.1:{free_port()}/db"
    with pytest.raises(RunError, match=f"cluster.storage {nobody}: .*refused.*PGPASSWORD"):
        database.check(nobody)
    (tmp_path / book.IN_DATABASE).write_text("mine")
    with pytest.raises(RunError, match="which is not on this machine"):
        book.loaded(tmp_path, f"sqlite:///{tmp_path}/runs.db")
    assert not (tmp_path / "runs.db").exists()
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pared\[postgres\]'"):
        database.check(nobody)


def test_a_wrong_password_is_told_and_not_repeated(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "guess")
    with pytest.raises(RunError, match="password authentication failed") as told:
        database.check(postgres.url)
    assert "guess" not in str(told.value)


def test_a_server_that_was_started_again_is_no_reason_to_stop(postgres: Postgres, tmp_path: Path) -> None:
    with book.opened(tmp_path, made(postgres.url), optuna.samplers.RandomSampler()) as (study, _):
        study.tell(study.ask(), [1.0, 1.0, 1.0])
        postgres.stop()
        postgres.start()
        study.tell(study.ask(), [2.0, 2.0, 2.0])
    with pytest.raises(RunError, match=r"refused.*pared resume"), \
            book.opened(tmp_path, made(postgres.url), optuna.samplers.RandomSampler()) as (study, _):
        assert len(study.trials) == 2
        postgres.stop()
        try:
            study.ask()
        finally:
            postgres.start()


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_run_is_resumed_and_read(pared_cli, tmp_path: Path) -> None:
    run, storage = tmp_path / "run", f"sqlite:///{tmp_path}/runs.db"
    run_file = write_run_file(tmp_path, search={"trials": 6}, max_accuracy_drop=0.05, cluster={**ALONE, "storage": storage})
    driver = started("search", run_file, "--out", run)
    until(lambda: ended(run, 3))
    status = json.loads(pared_cli("status", run, "--json").stdout)
    assert status["driver"]["pid"] == driver.pid and status["counts"]["complete"] >= 1
    driver.kill()
    driver.communicate()
    before = {t.number for t in pared.open_run(run).trials if book.OUTCOME in t.user_attrs}
    resumed = pared_cli("resume", run, "--json")
    assert resumed.returncode == 0, resumed.stderr
    again = pared.open_run(run)
    assert again.counts().asked == 6 and again.counts().running == 0
    assert before <= {t.number for t in again.trials if book.OUTCOME in t.user_attrs}
    assert pared_cli("front", run).returncode == pared_cli("report", run).returncode == 0
    assert not (run / "journal.log").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_killed_with_its_disk_it_is_taken_up_from_database_and_store(
        s3: S3, postgres: Postgres, pared_cli, tmp_path: Path) -> None:
    run, url = tmp_path / "run", f"s3://{s3.bucket}/with-database"
    run_file = write_run_file(tmp_path, space={"prune": False}, search={"trials": 4},
                              cluster={**ALONE, "storage": postgres.url, "store": url})
    driver = started("search", run_file, "--out", run)
    until(lambda: ended(url, 2))
    driver.kill()
    driver.communicate()
    assert "hush" not in (run / "run.yaml").read_text()
    shutil.rmtree(run, ignore_errors=True)  # its workers may still write a last word there
    assert json.loads(pared_cli("status", url, "--json").stdout)["counts"]["complete"] >= 2
    fetched = pared_cli("fetch", url, tmp_path / "elsewhere")
    assert fetched.returncode == 0, fetched.stderr
    resumed = pared_cli("resume", tmp_path / "elsewhere")
    assert resumed.returncode == 0, resumed.stderr
    counts = pared.open_run(url).counts()
    assert (counts.asked, counts.complete, counts.running) == (4, 4, 0)
