"""Fewer records in the journal tell the same story."""

import json
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pared.search.journal import SingleWriterJournal, Storage


def told(path: Path) -> list[tuple]:
    study = optuna.load_study(study_name="x", storage=JournalStorage(JournalFileBackend(str(path))))
    return [(t.number, t.state, t.params, t.distributions, t.values, t.user_attrs, t.system_attrs)
            for t in study.trials]


def test_what_is_grouped_reads_as_if_it_were_not(tmp_path: Path) -> None:
    journal = SingleWriterJournal(tmp_path / "journal")
    study = optuna.create_study(study_name="x", storage=Storage(journal), directions=["minimize"] * 2,
                                sampler=optuna.samplers.RandomSampler(seed=0))
    with journal.group():
        study.enqueue_trial({"a": 0.5}, user_attrs={"origin": "anchor"})
        asked = [study.ask() for _ in range(4)]
        for trial in asked:
            trial.suggest_float("a", 0, 1)
            trial.suggest_categorical("b", [True, False])
            trial.set_user_attr("recipe", f"r{trial.number}")
    with journal.group():
        asked[1].set_constraint("budgets", -1.0)
        study.tell(asked[1], [1.0, 2.0])
        study.tell(asked[2], state=optuna.trial.TrialState.FAIL)
        study.ask().set_user_attr("attempt", 1)
    live = [(t.number, t.state, t.params, t.distributions, t.values, t.user_attrs, t.system_attrs)
            for t in study.trials]
    journal.close()
    assert told(tmp_path / "journal") == live and len(live) == 5
    lines = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    assert len([each for each in lines if each["op_code"] == 5]) == 2, "only the enqueued one has them apart"


def test_a_journal_opened_again_knows_what_waits_and_goes_on(tmp_path: Path) -> None:
    for round_ in range(3):
        journal = SingleWriterJournal(tmp_path / "journal")
        study = optuna.create_study(study_name="x", storage=Storage(journal), load_if_exists=True)
        if round_ == 0:
            for value in (0.1, 0.2, 0.3):
                study.enqueue_trial({"a": value})
        with journal.group():
            trial = study.ask()
            assert trial.suggest_float("a", 0, 1) == (0.1, 0.2, 0.3)[round_]
            new = study.ask() if round_ == 2 else None
        assert new is None or new.number == 3
        journal.close()
    assert [number for number, *_ in told(tmp_path / "journal")] == [0, 1, 2, 3]


def test_a_group_that_is_cut_short_by_a_kill_leaves_nothing_half_told(tmp_path: Path) -> None:
    journal = SingleWriterJournal(tmp_path / "journal")
    study = optuna.create_study(study_name="x", storage=Storage(journal))
    with journal.group():
        trial = study.ask()
        trial.suggest_float("a", 0, 1)
        assert told(tmp_path / "journal") == [], "nothing is on the disk before the group is over"
    assert len(told(tmp_path / "journal")) == 1
    journal.close()
