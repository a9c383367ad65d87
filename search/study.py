"""The study of a run: an Optuna study in the journal or a database, and what pared notes on its trials."""

import gc
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ..errors import RunError
from . import notes
from .config import RunConfig
from .journal import NAME, SingleWriterJournal, Storage
from .records import Outcome, Untouched

Group = Callable[[], AbstractContextManager[None]]

STUDY = "pared"
IN_DATABASE = "study"  # a file in the run directory: what the study is called in its database
# User attributes of a trial.
RECIPE, DIGEST, ATTEMPT, STARTED, ENDED = "recipe", "digest", "attempt", "started", "ended"
OUTCOME, REPEAT_OF, ORIGIN = "outcome", "repeat_of", "origin"
FILE = "file"  # sha256 of a file that is there already
UNTOUCHED, CONTENT, TRAINED = "untouched", "content", "trained"  # of the study

optuna.logging.set_verbosity(optuna.logging.WARNING)


def objectives(config: RunConfig) -> list[tuple[str, str]]:
    """(metric, direction) of every objective, in the study's order."""
    found: list[tuple[str, str]] = []
    for name in config.objectives:
        if name == "accuracy":
            found.append(("accuracy", "maximize"))
        elif name == "size":
            found.append(("size_bytes", "minimize"))
        else:
            found += [(f"latency_ms@{machine.name}", "minimize") for machine in config.searched]
    return found


@contextmanager
def opened(
    run: Path, config: RunConfig, sampler: optuna.samplers.BaseSampler
) -> Iterator[tuple[optuna.Study, Group]]:
    """The study for its one driver, made if it is not there. Use while the run is `owned`.

    What is written within one `Group` reaches the disk together.
    """
    names, directions = zip(*objectives(config), strict=True)
    with _written(run, config.cluster.storage) as (storage, name, group):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                study_name=name, storage=storage, directions=list(directions),
                load_if_exists=True, sampler=sampler)
            study.set_metric_names(list(names))
        yield study, group


@contextmanager
def _written(run: Path, storage: str | None) -> Iterator[tuple[BaseStorage, str, Group]]:
    """Where the study is kept, and its name there."""
    if storage:
        from . import database  # SQLAlchemy takes as long to import as all the rest of a reader

        with database.connected(storage) as connection:
            yield connection, database.name_of(run), nullcontext
        return
    backend = SingleWriterJournal(run / NAME)
    try:
        with uncollected():
            journal = Storage(backend)
        yield journal, STUDY, backend.group
    finally:
        backend.close()


def begun(run: Path) -> bool:
    """Whether a driver has come as far as making the study."""
    return any((run / name).is_file() for name in (NAME, IN_DATABASE))


def loaded(run: Path, storage: str | None = None) -> optuna.Study:
    """The study for reading, also while a driver writes. Raises RunError: no run there, or a damaged one."""
    if not begun(run):
        raise RunError(f"{run} is not a run: it has no {NAME}; `pared search` makes one")
    study = found(run, storage)
    if study is None:
        raise RunError(f"{run} holds no study yet")
    return study


def found(run: Path, storage: str | None = None, whole: bool = True) -> optuna.Study | None:
    """The same; None where the driver that began the run died before it made the study.

    Not `whole`: the notes on its trials are not checked, which takes as long as three times reading them.
    """
    with uncollected():
        study = _stored(run, storage) if begun(run) else None
        if study:
            _check(study, str(run / NAME), whole)
    return study


def _stored(run: Path, storage: str | None) -> optuna.Study | None:
    if storage:
        from . import database

        return database.found(run, storage)
    replayed = _replayed(run / NAME)
    if STUDY not in (made.study_name for made in replayed.get_all_studies()):
        return None
    return optuna.load_study(study_name=STUDY, storage=replayed)


@contextmanager
def uncollected() -> Iterator[None]:
    """For reading long runs: of the many objects that are made none is garbage, and looking takes as long."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _check(study: optuna.Study, where: str, whole: bool) -> None:
    """Raises RunError: something in it is not as pared writes it."""
    notes.check_study(where, study.user_attrs)
    for trial in study.get_trials(deepcopy=False) if whole else ():
        place = f"{where}, trial {trial.number}"
        if trial.state == TrialState.COMPLETE:
            notes.check_complete(place, trial.user_attrs, trial.values, len(study.directions))
        else:
            notes.check_trial(place, trial.user_attrs)


def _replayed(journal: Path) -> JournalStorage:
    """Raises RunError: damaged. Optuna takes what a line says for granted, so anything may go wrong."""
    try:
        return JournalStorage(JournalFileBackend(str(journal)))
    except Exception as error:
        raise RunError(f"{journal} is damaged: {type(error).__name__}: {error}{notes.REMEDY}") from error


def tell(study: optuna.Study, trial: optuna.Trial, outcome: Outcome, names: list[str]) -> None:
    """Ends the trial; only the first telling of a trial counts."""
    trial.set_user_attr(OUTCOME, outcome.to_json())
    trial.set_user_attr(ENDED, time.time())
    if outcome.state == "failed":
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        return
    for name, share in outcome.broken.items():
        trial.set_constraint(name, share)
    if not outcome.broken:
        trial.set_constraint("budgets", -1.0)
    if outcome.state == "refused":
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        return
    values = [outcome.metrics[name]["value"] if name in outcome.metrics else _worst(study, i)
              for i, name in enumerate(names)]
    study.tell(trial, values, skip_if_finished=True)


def losses(config: RunConfig, outcome: Mapping[str, Any]) -> tuple[float, ...]:
    """Of a complete outcome: its objectives, each to be small; infinite where a device does not run it."""
    return tuple((-1.0 if direction == "maximize" else 1.0) * outcome["metrics"][name]["value"]
                 if name in outcome["metrics"] else inf for name, direction in objectives(config))


def _worst(study: optuna.Study, objective: int) -> float:
    """Stands for the latency of a file that a device does not run: worse than all, yet finite.

    An infinite value would end the sampler's comparison by hypervolume.
    """
    told = [t.values[objective] for t in study.get_trials(deepcopy=False) if t.values]
    return 2 * max(told, default=1.0)


def put_aside(study: optuna.Study, trial: optuna.Trial, original: int) -> None:
    """Ends a trial whose recipe another trial has: equal recipes are never run twice."""
    trial.set_user_attr(REPEAT_OF, original)
    study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)


def untouched(study: optuna.Study) -> Untouched | None:
    """What the first driver of the run found of the untouched model."""
    stored: dict[str, Any] | None = study.user_attrs.get(UNTOUCHED)
    return Untouched(**stored) if stored else None


def keep_untouched(study: optuna.Study, found: Untouched) -> None:
    study.set_user_attr(UNTOUCHED, asdict(found))


def final_key(sha256: str) -> str:
    """The study attribute that holds what the final scoring of an artefact gave."""
    return f"{notes.FINAL}{sha256}"


def real(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that stand for a recipe of their own, waiting ones left out."""
    return [t for t in trials if t.state != TrialState.WAITING and REPEAT_OF not in t.user_attrs]
