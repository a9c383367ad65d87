"""A finished or running search, read from its directory: front, pick, export, verify."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ..errors import BudgetError, ConfigError, RunError, unknown
from ..evaluators.accuracy import Drop
from ..evaluators.measurement import Measurement
from ..evaluators.subjects.find import find
from ..hardware_profiles.load import load
from ..spaces.recipe import from_json
from ..spaces.subject import Subject
from . import study as book
from .budget import broken, parse
from .candidate import Candidate
from .config import RunConfig, read
from .front import non_dominated
from .prepare import Untouched
from .report.page import write as write_report
from .report.story import Ended, Story
from .verify import Check, verify

CONFIG, STATUS = "run.yaml", "status.json"


@dataclass(frozen=True)
class Counts:
    """`asked` are recipes, not repeats; `trained` those on which training was spent."""

    asked: int
    complete: int
    refused: int
    failed: int
    running: int
    trained: int


class Run:
    """Reads a run directory; what it read stays as it was until `Run` is made again."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / CONFIG).is_file():
            raise RunError(f"{self.path} is not a run: it has no {CONFIG}; `pared search` makes one")

    @cached_property
    def config(self) -> RunConfig:
        return read(self.path / CONFIG)

    @cached_property
    def study(self) -> Any:
        return book.loaded(self.path)

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        return book.real(self.study.get_trials(deepcopy=False))

    @cached_property
    def untouched(self) -> Untouched:
        found = book.untouched(self.study)
        if found is None:
            raise RunError(f"{self.path}: the untouched model is not scored yet")
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
        raise RunError(f"{self.path}: the untouched model is not scored yet")

    @property
    def limits(self) -> dict[str, float]:
        return limits(self.config, self.untouched)

    def front(self, profile: str | None = None) -> list[Candidate]:
        """Non-dominated candidates within the budgets, fastest first (`profile`: on that one alone)."""
        profiles = [self._profile(profile)] if profile else list(self.config.profiles)
        latencies = [f"latency_ms@{name}" for name in profiles]
        allowed = {name: limit for name, limit in self.limits.items()
                   if "@" not in name or name.partition("@")[2] in profiles}

        def losses(candidate: Candidate) -> tuple[float, ...]:
            values = {"accuracy": [-candidate.metrics["accuracy"].value],
                      "size": [candidate.metrics["size_bytes"].value],
                      "latency": [candidate.metrics[name].value for name in latencies]}
            return tuple(v for name in self.config.objectives for v in values[name])

        within = [c for c in self.candidates if not broken(allowed, c.metrics)]
        return sorted(non_dominated(within, losses), key=lambda c: c.metrics[latencies[0]].value)

    def pick(
        self,
        profile: str | None = None,
        latency: str | float | None = None,
        size: str | float | None = None,
        max_drop: float | None = None,
        trial: int | None = None,
    ) -> Candidate:
        """The fastest candidate within the run's budgets and those given here, or that very trial.

        What the user should know of the choice is in its `notes`.

        Raises BudgetError when nothing meets them: says the nearest that was found, and how far off.
        """
        name = self._profile(profile or self.config.profiles[0])
        if trial is not None:
            return self._trial(trial, name, max_drop)
        allowed = dict(self.limits)
        if latency is not None:
            untouched_ms = self.untouched.latency_ms[name]
            allowed[f"latency_ms@{name}"] = parse(latency, "latency").resolved(untouched_ms)
        if size is not None:
            allowed["size_bytes"] = parse(size, "size").resolved(self.untouched.size_bytes)
        drop = self.config.max_accuracy_drop if max_drop is None else max_drop
        if drop is not None and not 0 <= drop <= 1:
            raise ConfigError(f"--max-drop {drop}: a fraction between 0 and 1; 0.01 is one point")
        if not self.candidates:
            raise RunError(f"{self.path} has no scored candidate to pick from")
        fit = [c for c in self.candidates if not broken(allowed, c.metrics)
               and (drop is None or c.drop.value <= drop)]
        if not fit:
            raise BudgetError(self._miss(name, allowed, drop))
        best = min(fit, key=lambda c: (c.latency(name).value, c.metrics["size_bytes"].value))
        return replace(best, profile=name, notes=tuple(_notes(best, name, drop)))

    def is_over(self, trials: int) -> bool:
        """Whether nothing is left to do: `trials` have ended, and the front had its final scoring."""
        counts = self.counts()
        return (counts.asked >= trials and not counts.running
                and all(c.test is not None for c in (self.baseline, *self.front())))

    def counts(self) -> Counts:
        states = [t.state for t in self.trials]
        trained = sum(bool(t.user_attrs.get(book.OUTCOME, {}).get("trained")) for t in self.trials)
        return Counts(len(states), states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED),
                      states.count(TrialState.FAIL), states.count(TrialState.RUNNING), trained)

    def _candidate(self, trial: FrozenTrial) -> Candidate:
        outcome = trial.user_attrs[book.OUTCOME]
        final = self.study.user_attrs.get(book.final_key(outcome["sha256"]), {"metrics": {}})
        metrics = {n: Measurement.from_json(m) for n, m in outcome["metrics"].items()}
        again = {n: Measurement.from_json(m) for n, m in final["metrics"].items()}
        test = again.pop("accuracy", None)
        return Candidate(
            run=self.path,
            trial=trial.number,
            recipe=from_json(trial.user_attrs[book.RECIPE]),
            sha256=outcome["sha256"],
            metrics={**metrics, **again},
            drop=Drop(**outcome["drop"]),
            size_only=outcome["size_only"],
            test=test,
            test_drop=Drop(**final["drop"]) if test else None,
        )

    def _trial(self, trial: int, profile: str, drop: float | None) -> Candidate:
        for candidate in self.candidates:
            if candidate.trial == trial:
                return replace(candidate, profile=profile, notes=tuple(_notes(candidate, profile, drop)))
        raise ConfigError(unknown("scored trial", trial, (str(c.trial) for c in self.candidates)))

    def report(self, path: str | Path | None = None) -> Path:
        """Writes one self-contained HTML page, by default `report.html` in the run; its path."""
        target = Path(path) if path else self.path / "report.html"
        write_report(self.story(), target)
        return target

    def verify(self, subject: Subject | None = None) -> list[Check]:
        """Scores every file of the front again: sha256, accuracy, latency ratio within 10 %."""
        subject = subject or find(self.config.model, self.path)
        profile = load(self.config.profiles[0])
        return [verify(candidate, self.untouched.sha256, subject, profile) for candidate in self.front()]

    def story(self) -> Story:
        """Everything the report shows, as plain data."""
        started = min((t.user_attrs[book.STARTED] for t in self.trials if book.STARTED in t.user_attrs),
                      default=0.0)
        by_trial = {c.trial: c for c in self.candidates}
        ended = [Ended(t.number, from_json(t.user_attrs[book.RECIPE]).label,
                       t.user_attrs[book.ENDED] - started, t.user_attrs[book.OUTCOME]["state"],
                       t.user_attrs[book.OUTCOME]["reason"], by_trial.get(t.number))
                 for t in self.trials if book.ENDED in t.user_attrs]
        return Story(
            path=str(self.path), profiles=self.config.profiles, limits=self.limits,
            max_drop=self.config.max_accuracy_drop, untouched=self.baseline, ended=ended,
            fronts={name: self.front(name) for name in self.config.profiles},
            trained=self.counts().trained)

    def _profile(self, name: str) -> str:
        if name not in self.config.profiles:
            raise ConfigError(unknown("profile of this run", name, self.config.profiles))
        return name

    def _miss(self, profile: str, allowed: Mapping[str, float], drop: float | None) -> str:
        accurate = [c for c in self.candidates if drop is None or c.drop.value <= drop]
        if not accurate:
            best = min(self.candidates, key=lambda c: c.drop.value)
            return (f"nothing loses at most {drop:.4g}; the least lost is {best.drop.value:.4f} "
                    f"(trial {best.trial}, {best.recipe.label})")
        near = min(accurate, key=lambda c: max(broken(allowed, c.metrics).values(), default=0))
        parts = [f"{name} {near.metrics[name].value:.4g} against {allowed[name]:.4g} "
                 f"{near.metrics[name].unit}, {1 + share:.2f}x over"
                 for name, share in broken(allowed, near.metrics).items()]
        fastest = min(accurate, key=lambda c: c.latency(profile).value)
        told = f" and a drop of at most {drop:.4g}" if drop is not None else ""
        return (f"nothing meets the budget{told}; the nearest is trial {near.trial} "
                f"({near.recipe.label}): {'; '.join(parts)}. The fastest found takes "
                f"{fastest.latency(profile).value:.4g} ms on {profile} (trial {fastest.trial}). "
                "Relax the budget, or search longer with `pared resume DIR --trials N`")


def limits(config: RunConfig, untouched: Untouched) -> dict[str, float]:
    """Metric -> upper limit in its unit, for every budget of the run file."""
    found = {}
    if config.budgets.size is not None:
        found["size_bytes"] = parse(config.budgets.size, "size").resolved(untouched.size_bytes)
    for name, budget in config.budgets.profiles.items():
        if budget.latency is not None:
            limit = parse(budget.latency, "latency").resolved(untouched.latency_ms[name])
            found[f"latency_ms@{name}"] = limit
        if budget.memory is not None:
            limit = parse(budget.memory, "memory").resolved(untouched.memory_bytes)
            found["memory_bytes"] = min(limit, found.get("memory_bytes", limit))
    return found


def _notes(best: Candidate, profile: str, drop: float | None) -> list[str]:
    notes = []
    if drop is not None and best.recipe.steps and not best.drop.supports(drop):
        notes.append(
            f"n = {best.drop.n} is too small to support a loss of at most {drop:.4g}: measured "
            f"{best.drop.value:+.4f}, 95 % interval {best.drop.low:+.4f} to {best.drop.high:+.4f}")
    if best.latency(profile).unstable:
        notes.append(f"the latency on {profile} never settled; measure it again on a quiet machine")
    if techniques := best.size_only.get(profile):
        notes.append(f"{', '.join(techniques)}: size only on {profile}, no speed is to be expected")
    if best.recipe.steps and (best.latency(profile).ratio or 0) > 1:
        notes.append(f"slower than the untouched model on {profile}")
    return notes
