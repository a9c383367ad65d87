"""The same words in Python as on the command line: search, resume, open_run."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, RunError
from ..evaluators.devices import device
from ..evaluators.subjects.find import check, find, source
from ..evaluators.subjects.students import Factory, find_students
from ..hardware_profiles.load import dump as profile_text
from ..hardware_profiles.load import is_path
from ..spaces import space as spaces
from ..spaces.subject import Subject
from . import study as book
from .budget import parse
from .cache import RUN_ONLY, Cache, home
from .candidate import store_of
from .config import RunConfig, StageNeeds, build, dump, read
from .driver import Driver
from .events import events
from .inherit import Inheritance, inherited, take_over
from .journal import owned
from .limits import limits, size_counts
from .mirror import at, mirrored, restore
from .prepare import Prepared, prepare, teach
from .records import Untouched, keep
from .run import CONFIG, LOGS, Run
from .sensing import sense, wanted
from .status import heartbeat
from .suggest import sampler
from .trial import Bench
from .workers import Crew, Needs, crew

Watch = Callable[[Driver], None]
IN_PYTHON = "(given in Python)"


def search(
    subject: Subject | str,
    profiles: Sequence[str] = ("host-cpu",),
    budgets: Mapping[str, Any] | None = None,
    trials: int = 60,
    timeout: str | float | None = None,
    out: str | Path = "runs/run",
    students: Mapping[str, str | Factory] | None = None,
    from_run: str | Path | None = None,
    **settings: Any,
) -> Run:
    """Searches and returns the finished run.

    `subject` is a Subject or what a run file's `model` takes. `budgets` is written as in a run file
    (`{"host-cpu": {"latency": "2ms"}, "size": "25%"}`), as are the keys of `settings`:
    `max_accuracy_drop`, `objectives`, `space`, `keep`, `search`, `cluster`. `students` are other
    architectures to try, each a function that builds one or what a run file takes. `from_run` is a run of the
    same model, for other devices or budgets: all that it knows is scored here and its trainings are not done
    again; `trials` come on top. Raises UserError.
    """
    reference = subject if isinstance(subject, str) else IN_PYTHON
    named = {name: given if isinstance(given, str) else IN_PYTHON for name, given in (students or {}).items()}
    fields = {"model": reference, "profiles": list(profiles), "budgets": dict(budgets or {}),
              "students": named, **settings}
    config = build(fields, {"search.trials": trials, "search.timeout": timeout}, "pared.search")
    found = find(subject, Path.cwd()) if isinstance(subject, str) else check(subject)
    origin = Path(from_run) if from_run else None
    return start(config, found, Path(out), Path.cwd(), students=students, origin=origin)


def resume(
    out: str | Path,
    subject: Subject | None = None,
    watch: Watch | None = None,
    students: Mapping[str, str | Factory] | None = None,
    **overrides: Any,
) -> Run:
    """Goes on with a run that was stopped, killed, or is to have more trials (`trials=200`).

    Finished trials are kept, those that were running are run again. `subject` and `students` are needed
    where they were given in Python. Raises RunError while another driver owns the run.
    """
    run = at(out)
    if run.copy_of:
        raise RunError(f"{out} is a copy; `pared fetch {out} DIR`, then `pared resume DIR`")
    keys = {"trials": "search.trials", "timeout": "search.timeout", "workers": "cluster.workers",
            "address": "cluster.address"}
    changed = {keys[name]: value for name, value in overrides.items() if value is not None}
    config = build(run.config.model_dump(mode="json"), changed, str(run.path / CONFIG))
    path, known = run.path, run.known
    if known and run.is_over(config.search.trials):
        with owned(path), mirrored(path, config):  # what could not be copied when it ended
            return run
    del run  # and all that it has read: the driver reads it for itself
    if subject is None:
        if config.model == IN_PYTHON:
            raise ConfigError(f"{path} was started from Python; resume it with "
                              "pared.resume(DIR, subject)")
        subject = find(config.model, path)
    subject = check(subject)
    found = find_students(_named(config, students), subject, path)
    with owned(path), mirrored(path, config) as still_ours:
        keep_config(path, config)
        _drive(path, config, subject, found, _both(still_ours, watch), known=known)
    return Run(path)


def open_run(out: str | Path) -> Run:
    """A run for reading, finished or not: its directory, or the URL that `cluster.store` named."""
    return at(out)


def fetch(url: str, out: str | Path) -> Run:
    """Makes the run directory `out` from the copy in a store, to be resumed here. Raises RunError."""
    target = Path(out)
    _check_free(target)
    try:
        restore(url, target)
        keep_config(target, read(target / CONFIG, {"cluster.store": url}))
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)  # it was not there, or empty
        raise
    return Run(target)


def start(
    config: RunConfig,
    subject: Subject,
    out: Path,
    base: Path,
    watch: Watch | None = None,
    students: Mapping[str, str | Factory] | None = None,
    origin: Path | None = None,
) -> Run:
    """A new run in `out`, which must not be there yet. References are relative to `base`.

    `origin` is a run of the same model that it starts from.
    """
    if (out / CONFIG).exists():
        with owned(out):  # names the pid when a driver is alive in there
            raise RunError(f"{out} is a run already; `pared resume {out}` goes on with it, "
                           "or name another directory with --out")
    _check_free(out)
    spaces.check_names(config.space)
    found = find_students(_named(config, students), subject, base)
    known = inherited(origin) if origin else None
    if known:  # the trials that were asked for come on top of what is known
        more = config.search.trials + len(known.known) + 1
        config = config.model_copy(update={"search": config.search.model_copy(update={"trials": more})})
    try:
        config = _absolute(config, base)
        out.mkdir(parents=True, exist_ok=True)
        with owned(out), mirrored(out, config, new=True) as still_ours:
            keep_config(out, config)
            if known and origin:
                known = take_over(known, origin, store_of(out, config))
            _drive(out, config, subject, found, _both(still_ours, watch), known)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error}") from error
    finally:
        if not book.begun(out):  # nothing was scored: leave no half-made run behind
            shutil.rmtree(out, ignore_errors=True)
    return Run(out)


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not empty; name another directory")


def _both(still_ours: Callable[[], None], watch: Watch | None) -> Watch:
    def watched(driver: Driver) -> None:
        still_ours()
        if watch:
            watch(driver)

    return watched


def _named(config: RunConfig, given: Mapping[str, str | Factory] | None) -> dict[str, str | Factory]:
    """Students by name: references of the run file, and what was given in Python. Raises ConfigError."""
    named = {**config.students, **(given or {})}
    if extra := sorted(named.keys() - config.students.keys()):
        raise ConfigError(f"students: this run was started without {', '.join(extra)}")
    if lacking := [name for name, what in named.items() if what == IN_PYTHON]:
        raise ConfigError(f"students {', '.join(lacking)} were given in Python; resume the run with "
                          "pared.resume(DIR, students={NAME: FUNCTION})")
    return named


def _drive(
    out: Path, config: RunConfig, subject: Subject, students: Mapping[str, Factory], watch: Watch,
    origin: Inheritance | None = None, known: Untouched | None = None,
) -> None:
    profiles = config.searched
    for profile in profiles:  # told before a cluster starts
        if profile.backend.kind != "node":
            device(profile).check()
    if config.cluster.storage:
        from . import database  # and SQLAlchemy with it

        database.check(config.cluster.storage)
    cluster = config.cluster
    stages = {"train": _needs(cluster.train), "score": _needs(cluster.score)}
    with crew(cluster.address, cluster.workers, stages, profiles, _code(config)) as workers:
        store, cache = store_of(out, config).url, _cache(config, out)
        shared = workers.share(subject)
        ready: Prepared = workers.call(
            prepare, shared, profiles, store, known, cluster.score.cpus, config.keep, tuple(students))
        _check_same(ready, origin)
        scope = replace(ready.scope, rungs=config.search.rungs)
        if wanted(config.space):
            found = workers.call(sense, shared, store, cache.url, ready.untouched.sha256, ready.keep)
            scope = replace(scope, sensitivity=found)
        space = spaces.build(scope, config.space, size_counts(config))
        teacher = workers.call(teach, shared, ready.content, cache.url, scope.taps, space.transfers)
        del shared  # the trials have their own copy, with all else that they need
        bench = Bench(subject, profiles, store, cluster.score.cpus, config.search.seed,
                      ready.untouched.sha256, ready.scores, ready.untouched.latency_ms,
                      limits(config, ready.untouched), teacher, ready.keep, students, ready.content,
                      cache.url, cluster.train.cpus, _logs(out, config))
        _search(out, config, space, bench, workers, ready, watch, origin)
        with suppress(RunError):  # a cache that is out of reach ends no search
            cache.gc(parse(cluster.cache_size, "size").limit)


def _search(
    out: Path,
    config: RunConfig,
    space: spaces.Space,
    bench: Bench,
    workers: Crew,
    ready: Prepared,
    watch: Watch,
    origin: Inheritance | None,
) -> None:
    proposer = sampler(space, config, workers.workers)
    with book.opened(out, config, proposer) as (study, group), heartbeat(out) as beat, events(out) as tell:
        if book.untouched(study) is None:
            book.keep_untouched(study, ready.untouched)
            study.set_user_attr(book.CONTENT, ready.content)

        def watched(driver: Driver) -> None:
            beat(driver)
            watch(driver)

        driver = Driver(study, space, config, bench, workers, watched, group, tell_event=tell)
        tell("driver started", workers=workers.workers, address=config.cluster.address)
        if origin:
            driver.proposals.inherit(origin)
        with _resumable(out):
            driver.loop()
            while missing := Run(out, study).unfinished():
                driver.score_front(missing)  # a figure measured at length may bring another to the front
        tell("driver finished", trials=dict(driver.ended))
        beat(driver)


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """What ends the driver says how to go on."""
    try:
        yield
    except RunError as error:
        if "`pared " in str(error):  # it does already
            raise
        raise RunError(f"{error}; `pared resume {out}` goes on from here") from error


def _logs(out: Path, config: RunConfig) -> str:
    """Beside the journal, or where all nodes reach it."""
    return f"{config.cluster.store}/logs" if config.cluster.store else str(out.resolve() / LOGS)


def _needs(stage: StageNeeds) -> Needs:
    memory = parse(stage.memory, "size").limit if stage.memory is not None else 0.0
    return Needs(stage.cpus, stage.gpus, memory)


def _code(config: RunConfig) -> list[str]:
    """What the nodes of a cluster import: what was named, or where the model and the students are from."""
    references = [r for r in (config.model, *config.students.values()) if r != IN_PYTHON]
    return list(config.cluster.code) or [str(path) for path in map(source, references) if path]


def _check_same(ready: Prepared, origin: Inheritance | None) -> None:
    """Raises RunError: what is to be taken over is of another model, other data or another loss."""
    if origin and origin.content != ready.content:
        raise RunError("the run to start from is of another model, other training data or another loss; "
                       "start a run without --from")


def _absolute(config: RunConfig, base: Path) -> RunConfig:
    """`./file.py:object` with its full path, so that the run can be resumed from anywhere."""
    def full(reference: str) -> str:
        where, colon, name = reference.rpartition(":")
        return f"{(base / where).resolve()}{colon}{name}" if where.endswith(".py") else reference

    def place(where: str | None) -> str | None:
        return where if where is None or "://" in where else str((base / where).resolve())

    students = {name: full(reference) for name, reference in config.students.items()}
    named = config.cluster
    cache = named.cache if named.cache == RUN_ONLY else place(named.cache)
    where = {"cache": cache, "store": place(named.store), "storage": named.storage}
    if named.storage and named.storage.startswith("sqlite:///"):
        where["storage"] = f"sqlite:///{place(named.storage.removeprefix('sqlite:///'))}"
    cluster = named.model_copy(update=where)
    return config.model_copy(update={"model": full(config.model), "students": students, "cluster": cluster})


def _cache(config: RunConfig, out: Path) -> Cache:
    named = config.cluster.cache
    return Cache(str(out.resolve() / "cache") if named == RUN_ONLY else named or home())


def keep_config(out: Path, config: RunConfig) -> None:
    """Writes run.yaml; keeps profiles that were files, so that what they say later changes nothing."""
    kept = []
    for written, machine in zip(config.profiles, config.machines, strict=True):
        name = f"profiles/{machine.name}.yaml"
        kept.append(name if is_path(written) else written)
        if is_path(written) and not (out / name).exists():
            (out / "profiles").mkdir(exist_ok=True)
            (out / name).write_text(profile_text(machine))
    config = config.model_copy(update={"profiles": tuple(kept)})
    keep(out / CONFIG, dump(config))


