import os
import subprocess
import sys
import textwrap
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pared.errors import RunError
from pared.search.journal import NAME, SingleWriterJournal, owned, owner


def study(folder: Path) -> tuple[SingleWriterJournal, optuna.Study]:
    backend = SingleWriterJournal(folder / NAME)
    return backend, optuna.create_study(study_name="s", storage=JournalStorage(backend), load_if_exists=True)


def test_a_torn_tail_is_cut_and_the_study_goes_on(tmp_path: Path) -> None:
    backend, first = study(tmp_path)
    first.tell(first.ask(), 1.0)
    backend.close()
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'{"op_code": 4, "worker_id": "x", "study')  # a driver killed in mid-append
    backend, again = study(tmp_path)
    again.tell(again.ask(), 2.0)
    again.tell(again.ask(), 3.0)
    backend.close()
    _, reread = study(tmp_path)
    assert [t.value for t in reread.trials] == [1.0, 2.0, 3.0]


def test_a_stale_lock_of_a_killed_writer_costs_nothing(tmp_path: Path) -> None:
    backend, _ = study(tmp_path)
    backend.close()
    (tmp_path / f"{NAME}.lock").symlink_to("gone")
    backend, again = study(tmp_path)
    again.tell(again.ask(), 1.0)
    assert not (tmp_path / f"{NAME}.lock").is_symlink()


def test_plain_optuna_reads_it(tmp_path: Path) -> None:
    _, mine = study(tmp_path)
    mine.tell(mine.ask(), 1.0)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / NAME)))
    assert optuna.load_study(study_name="s", storage=storage).best_value == 1.0


def test_a_second_driver_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    assert owner(tmp_path) is None
    with owned(tmp_path):
        assert owner(tmp_path) == os.getpid()
        with pytest.raises(RunError, match=f"pid {os.getpid()}"), owned(tmp_path):
            pass
    assert owner(tmp_path) is None
    with owned(tmp_path):
        pass


def test_a_full_disk_loses_nothing_that_was_told(tmp_path: Path) -> None:
    """The file may not grow past 4 kB: the write that does not fit is undone and told."""
    script = textwrap.dedent(f"""
        import resource, signal, optuna
        from pathlib import Path
        from optuna.storages import JournalStorage
        from pared.errors import RunError
        from pared.search.journal import SingleWriterJournal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        study = optuna.create_study(study_name="s", storage=JournalStorage(SingleWriterJournal(Path({str(tmp_path)!r}) / "{NAME}")))
        told = 0
        try:
            while True:
                study.tell(study.ask(), float(told))
                told += 1
        except RunError as error:
            assert "cannot write the journal" in str(error), error
            print(told)
        """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = int(done.stdout)
    _, again = study(tmp_path)
    complete = [t.value for t in again.trials if t.state.is_finished()]
    assert complete == [float(i) for i in range(told)] and told > 2
    again.tell(again.ask(), -1.0)  # and the journal still takes more
