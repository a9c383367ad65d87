"""A finished or running search, read from its directory: front, pick, export, verify."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ..errors import BudgetError, ConfigError, RecipeError, RunError, unknown
from ..evaluators.accuracy import Drop
from ..evaluators.artifact import Store
from ..evaluators.devices.table import TableDevice
from ..evaluators.measurement import Measurement
from ..evaluators.subjects.find import find
from ..spaces.recipe import Recipe, from_json
from ..spaces.sensitivity import Sensitivity
from ..spaces.sensitivity import from_json as sensitivity_from_json
from ..spaces.subject import Subject
from . import study as book
from .budget import broken, parse
from .candidate import Candidate, store_of
from .choice import miss, noted
from .config import RunConfig, check_trusted, read
from .cost import Cost, Metrics, by_profile
from .front import non_dominated
from .labels import label
from .limits import latency_limit, limits, on_profile
from .records import Untouched
from .report.story import Ended, Story
from .verify import Check, verify

CONFIG, STATUS, LOGS = "run.yaml", "status.json", "logs"


@dataclass(frozen=True)
class Counts:
    """`asked` are recipes, not repeats; `trained` are trainings that were done, not found done."""

    asked: int
    complete: int
    refused: int
    failed: int
    running: int
    trained: int


class Run:
    """Reads a run directory; what it read stays as it was until `Run` is made again.

    `study`: that of the run's own driver, which need not read it from disk. `copy_of`: the URL that the
    directory was fetched from, when it is only there to be read.
    """

    def __init__(self, path: str | Path, study: Any = None, copy_of: str | None = None) -> None:
        self.path, self.copy_of = Path(path), copy_of
        self.place = copy_of or str(path)  # what people call it by
        if study is not None:
            self.study = study
        if not (self.path / CONFIG).is_file():
            raise RunError(f"{self.path} is not a run: it has no {CONFIG}; `pared search` makes one")

    @cached_property
    def config(self) -> RunConfig:
        return read(self.path / CONFIG, {"cluster.store": self.copy_of})

    @cached_property
    def store(self) -> Store:
        return store_of(self.path, self.config)

    @cached_property
    def study(self) -> Any:
        return book.loaded(self.path, self.config.cluster.storage)

    @property
    def known(self) -> Untouched | None:
        """The untouched model; None where an earlier driver died before it was scored.

        For a driver that goes on: what it reads of the run from here on is not checked trial by trial.
        """
        study = book.found(self.path, self.config.cluster.storage, whole=False)
        if study is None:
            return None
        self.study = study
        return book.untouched(study)

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        return book.real(self.study.get_trials(deepcopy=False))

    @cached_property
    def untouched(self) -> Untouched:
        found = book.untouched(self.study)
        if found is None:
            raise RunError(f"{self.place}: the untouched model is not scored yet")
        return found

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Every complete trial."""
        done = (t for t in self.trials if t.state == TrialState.COMPLETE)
        return [self._candidate(trial) for trial in done]

    @property
    def baseline(self) -> Candidate:
        """The untouched model."""
        for candidate in self.candidates:
            if not candidate.recipe.steps:
                return candidate
        raise RunError(f"{self.place}: the untouched model is not scored yet")

    @cached_property
    def sensitivity(self) -> Sensitivity | None:
        """How much each layer of the untouched model minds; None where no technique of the run asked."""
        for name in self.store.cards("sensitivity-"):
            with suppress(ValueError, RunError):  # a damaged one is none
                plain = self.store.get_card(name)
                if plain.get("untouched") == self.untouched.sha256:
                    return sensitivity_from_json(plain)
        return None

    @property
    def limits(self) -> dict[str, float]:
        return limits(self.config, self.untouched)

    def front(self, profile: str | None = None) -> list[Candidate]:
        """Non-dominated candidates within the budgets of one profile, fastest first.

        Without `profile`: the members of every profile's front, in the order of the profiles.
        """
        if profile is None:
            members = [c for name in self.config.names for c in self.front(name)]
            return list({c.trial: c for c in members}.values())
        latency = f"latency_ms@{self._profile(profile)}"
        allowed = on_profile(self.limits, [profile])

        def losses(candidate: Candidate) -> tuple[float, ...]:
            values = {"accuracy": -candidate.accuracy(profile).value,
                      "size": candidate.metrics["size_bytes"].value,
                      "latency": candidate.metrics[latency].value}
            return tuple(values[name] for name in self.config.objectives)

        within = [c for c in self.candidates if latency in c.metrics and not broken(allowed, c.metrics)]
        return sorted(non_dominated(within, losses), key=lambda c: c.metrics[latency].value)

    def best_for_all(self) -> Candidate | None:
        """The best single model for all profiles within all budgets; None when there is none."""
        try:
            return self.pick()
        except (BudgetError, RunError):
            return None

    def pick(
        self,
        profile: str | None = None,
        latency: str | float | None = None,
        size: str | float | None = None,
        max_drop: float | None = None,
        trial: int | None = None,
        accept_uncalibrated: bool = False,
    ) -> Candidate:
        """The fastest candidate within the run's budgets and those given here, or that very trial.

        Without `profile`, the best single model for all profiles of the run: it runs on each, meets
        every budget, and has the least geometric mean of its latencies. What the user should know of
        the choice is in its `notes`.

        Raises BudgetError when nothing meets the budgets: says the nearest that was found, and how far
        off. Raises ConfigError for a latency in ms on an uncalibrated profile, unless accepted.
        """
        names = [self._profile(profile)] if profile else [m.name for m in self.config.searched]
        drop = self.config.max_accuracy_drop if max_drop is None else max_drop
        if drop is not None and not 0 <= drop <= 1:
            raise ConfigError(f"--max-drop {drop}: a fraction between 0 and 1; 0.01 is one point")
        if trial is not None:
            return noted(self._trial(trial), names, drop)
        allowed = self._allowed(names, latency, size, accept_uncalibrated)
        if not self.candidates:
            raise RunError(f"{self.place} has no scored candidate to pick from")
        fit = [c for c in self.candidates if c.runs_on(names) and not broken(allowed, c.metrics)
               and (drop is None or c.lost(names) <= drop)]
        if not fit:
            raise BudgetError(miss(self.candidates, names, allowed, drop))
        return noted(min(fit, key=lambda c: (c.slowness(names), c.metrics["size_bytes"].value)), names, drop)

    def _allowed(
        self, names: list[str], latency: str | float | None, size: str | float | None, accept: bool
    ) -> dict[str, float]:
        """The run's limits on these profiles, and the tighter or looser ones given here."""
        allowed = on_profile(self.limits, names)
        if latency is not None:
            if len(names) > 1:
                raise ConfigError(f"--latency {latency}: say on which profile with --profile; "
                                  f"this run has {', '.join(names)}")
            if not (accept or self.config.accept_uncalibrated):
                check_trusted(self.config.machine(names[0]), latency)
            allowed[f"latency_ms@{names[0]}"] = latency_limit(latency, names[0], self.untouched)
        if size is not None:
            allowed["size_bytes"] = parse(size, "size").resolved(self.untouched.size_bytes)
        return allowed

    def is_over(self, trials: int) -> bool:
        """Whether nothing is left to do: `trials` have ended, and the front had its final scoring."""
        counts = self.counts()
        return counts.asked >= trials and not counts.running and not self.unfinished()

    def unfinished(self) -> list[str]:
        """sha256 of what the user will look at and that had no final scoring yet."""
        best = self.best_for_all()
        shown = (self.baseline, *self.front(), *([best] if best else []))
        return list(dict.fromkeys(c.sha256 for c in shown if c.test is None))

    def counts(self) -> Counts:
        states = [t.state for t in self.trials]
        outcomes = [t.user_attrs.get(book.OUTCOME, {}) for t in self.trials]
        trained = sum(bool(found.get("trained")) and not found.get("saved_s") for found in outcomes)
        return Counts(len(states), states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED),
                      states.count(TrialState.FAIL), states.count(TrialState.RUNNING), trained)

    @property
    def saved(self) -> float:
        """Share of the trials' time that shared and remembered trainings saved, 0-1."""
        ended = [t.user_attrs for t in self.trials if book.ENDED in t.user_attrs]
        saved = sum(float(notes[book.OUTCOME].get("saved_s", 0.0)) for notes in ended)
        times = ((notes[book.ENDED], notes.get(book.STARTED, notes[book.ENDED])) for notes in ended)
        spent = sum(max(0.0, end - start) for end, start in times)
        return saved / (saved + spent) if saved else 0.0

    def _candidate(self, trial: FrozenTrial) -> Candidate:
        outcome = trial.user_attrs[book.OUTCOME]
        final = self.study.user_attrs.get(book.final_key(outcome["sha256"]), {"metrics": {}})
        metrics = {n: Measurement.from_json(m) for n, m in outcome["metrics"].items()}
        again = {n: Measurement.from_json(m) for n, m in final["metrics"].items()}
        test = again.pop("accuracy", None)
        known = self._with_tables({**metrics, **again}, outcome["sha256"])
        lacking = {name: "no figure" for name in self.config.names
                   if f"latency_ms@{name}" not in known.metrics}
        return Candidate(
            run=self.path,
            store=self.store.url,
            trial=trial.number,
            recipe=self._recipe(trial),
            sha256=outcome["sha256"],
            metrics=known.metrics,
            drop=Drop(**outcome["drop"]),
            size_only=outcome["size_only"],
            absent={**lacking, **outcome.get("absent", {}), **known.absent},
            shipped=outcome.get("shipped", {}),
            remarks=outcome.get("remarks", {}),
            told=tuple(outcome.get("notes", ())),
            test=test,
            test_drop=Drop(**final["drop"]) if test else None,
        )

    def _recipe(self, trial: FrozenTrial) -> Recipe:
        try:
            return from_json(trial.user_attrs[book.RECIPE])
        except RecipeError as error:
            raise RunError(f"{self.path}: trial {trial.number} is damaged: {error}") from error

    @cached_property
    def _tables(self) -> dict[str, TableDevice]:
        return {m.name: TableDevice(m) for m in self.config.machines if m.backend.kind == "table"}

    def _with_tables(self, metrics: Metrics, digest: str) -> Cost:
        """And what tables of measurements say of a file: they may have come after the search."""
        if not self._tables:
            return Cost(metrics, {}, {})
        machines, untouched = map(self.config.machine, self._tables), self.untouched.sha256
        return by_profile(metrics, {}, machines, lambda m: self._tables[m.name].find(digest, untouched))

    def _trial(self, trial: int) -> Candidate:
        for candidate in self.candidates:
            if candidate.trial == trial:
                return candidate
        raise ConfigError(unknown("scored trial", trial, (str(c.trial) for c in self.candidates)))

    def report(self, path: str | Path | None = None) -> Path:
        """Writes one self-contained HTML page, by default `report.html` in the run directory; its path.

        For a run behind a URL, by default in the working directory.
        """
        from .report.page import write  # plotly, which only this needs

        target = Path(path or ("report.html" if self.copy_of else self.path / "report.html"))
        write(self.story(), target)
        return target

    def verify(self, subject: Subject | None = None) -> list[Check]:
        """Scores every file of the front again: sha256, accuracy, latency ratio within 10 %."""
        subject = subject or find(self.config.model, self.path)
        return [verify(candidate, self.untouched.sha256, subject, self.config.machines)
                for candidate in self.front()]

    def story(self) -> Story:
        """Everything the report shows, as plain data."""
        started = min((t.user_attrs[book.STARTED] for t in self.trials if book.STARTED in t.user_attrs),
                      default=0.0)
        by_trial = {c.trial: c for c in self.candidates}
        ended = [Ended(t.number, self._recipe(t).label,
                       t.user_attrs[book.ENDED] - started, t.user_attrs[book.OUTCOME]["state"],
                       t.user_attrs[book.OUTCOME]["reason"], by_trial.get(t.number))
                 for t in self.trials if book.ENDED in t.user_attrs]
        return Story(
            path=self.place, profiles=self.config.names,
            labels={machine.name: label(machine) for machine in self.config.machines}, limits=self.limits,
            max_drop=self.config.max_accuracy_drop, untouched=self.baseline, ended=ended,
            fronts={name: self.front(name) for name in self.config.names},
            best_for_all=self.best_for_all(), trained=self.counts().trained, saved=self.saved,
            sensitivity=self.sensitivity)

    def _profile(self, name: str) -> str:
        if name not in self.config.names:
            raise ConfigError(unknown("profile of this run", name, self.config.names))
        return name
