"""The loop: one process owns the study, asks, sends trials out, tells what came back.

A trial is written ahead before it starts, ends exactly once, and is re-adopted by the next driver
when this one dies.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..errors import RunError
from ..evaluators.artifact import Store
from ..spaces.recipe import Recipe, from_json
from ..spaces.space import Space, Values
from . import study as book
from .config import RunConfig
from .inherit import Inheritance
from .promotion import Promotions
from .records import Job, Outcome
from .sampler import Exhausted
from .suggest import suggest
from .trial import Bench, final_score, run
from .workers import Crew, Fault, Kind

TICK_S = 0.5
REASKS = 50  # proposals in a row that were tried already, before the space counts as exhausted

Watch = Callable[["Driver"], None]


@dataclass
class Flight:
    """A trial that is out, or held back until its training is done elsewhere."""

    trial: optuna.Trial
    recipe: Recipe
    attempt: int = 1
    deadline: float = 0.0
    submitted: float = 0.0


@dataclass
class Driver:
    """Runs a study to its end. `watch` is called after every step, for whoever shows progress."""

    study: optuna.Study
    space: Space
    config: RunConfig
    bench: Bench
    crew: Crew
    watch: Watch
    out: dict[int, Flight] = field(default_factory=dict)
    held: list[Flight] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)  # recipe digest -> trial
    # Prefix digest -> sha256 of the float file, and the seconds it took to train.
    trained: dict[str, tuple[str, float]] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    waited_s: float = 0.0
    exhausted: bool = False
    promotions: Promotions = field(init=False)

    def __post_init__(self) -> None:
        self.promotions = Promotions(self.space, partial(book.losses, self.config))

    def loop(self) -> None:
        """Until the trials are used up, the time is over, or nothing new is left to propose."""
        self._remember()
        shared = self.crew.share(self.bench)
        while self._fill(shared) or self.out:
            began = time.perf_counter()
            finished = self.crew.wait(TICK_S)
            self.waited_s += time.perf_counter() - began
            for number, result in finished:
                self._land(number, result)
            self._stop_overdue()
            self.watch(self)

    def inherit(self, found: Inheritance) -> None:
        """Has all that another run knows scored here first, and no training done twice."""
        self.study.set_user_attr(book.TRAINED, {name: list(each) for name, each in found.trained.items()})
        self.study.enqueue_trial(self.space.anchors()[0], user_attrs={book.ORIGIN: "anchor"})
        variants: list[Values] = []
        for each in found.known:
            values = self.space.snapped(each.values)
            notes = {book.ORIGIN: "known", book.FILE: each.sha256}
            recipe = self.space.decode(values)
            if recipe != each.recipe:
                notes[book.GIVEN] = each.recipe.json
            self.study.enqueue_trial(values if recipe == each.recipe else {}, user_attrs=notes)
            if recipe.prefix.digest in found.trained:
                variants += self.space.siblings(values)
        for values in variants:
            self._enqueue(values, "sibling")

    def score_front(self, front: list[str]) -> None:
        """Scores each artefact a last time, once in the life of the run."""
        wanted = [sha for sha in dict.fromkeys(front) if book.final_key(sha) not in self.study.user_attrs]
        shared = self.crew.share(self.bench)
        for key, sha in enumerate(wanted):
            self.crew.submit(key, final_score, sha, shared)
        losses, left = 0, len(wanted)
        while left:
            for key, result in self.crew.wait(TICK_S):
                if not isinstance(result, Fault):
                    self.study.set_user_attr(book.final_key(wanted[key]), result)
                    left -= 1
                elif result.kind is Kind.LOST and losses < self.config.search.max_attempts:
                    losses += 1
                    self.crew.submit(key, final_score, wanted[key], shared)
                else:
                    raise RunError(f"the final scoring of {wanted[key]}: {result.reason}")
            self.watch(self)

    def _remember(self) -> None:
        """Takes up what earlier drivers left: finished recipes, trained prefixes, running trials."""
        for digest, each in self.study.user_attrs.get(book.TRAINED, {}).items():
            self.trained[digest] = tuple(each)
        running: list[FrozenTrial] = []
        for frozen in book.real(self.study.get_trials(deepcopy=False)):
            if frozen.state == TrialState.RUNNING:
                running.append(frozen)
            elif book.RECIPE in frozen.user_attrs:
                recipe = from_json(frozen.user_attrs[book.RECIPE])
                self.seen[recipe.digest] = frozen.number
                self._note(recipe, frozen.params, frozen.user_attrs.get(book.OUTCOME, {}))
        for frozen in running:
            self._adopt(frozen)
        for values in self.space.anchors():
            self.study.enqueue_trial(values, user_attrs={book.ORIGIN: "anchor"}, skip_if_exists=True)

    def _adopt(self, frozen: FrozenTrial) -> None:
        trial = optuna.Trial(self.study, frozen._trial_id)
        recipe = self._recipe(trial)
        attempt = int(frozen.user_attrs.get(book.ATTEMPT, 0))
        if recipe.digest in self.seen:
            book.put_aside(self.study, trial, self.seen[recipe.digest])
            return
        self._write_ahead(trial, recipe)
        # The attempt that died with its driver was not the trial's own fault: it is not counted.
        self.held.append(Flight(trial, recipe, max(0, attempt - 1)))

    def _fill(self, shared: Any) -> bool:
        """Sends trials out while there are free workers; False when nothing went out."""
        sent = False
        while len(self.out) < self.crew.workers and (flight := self._next()):
            self._submit(flight, shared)
            sent = True
        return sent

    def _next(self) -> Flight | None:
        training = {f.recipe.prefix.digest for f in self.out.values() if self._trains(f.recipe)}
        for flight in self.held:
            if flight.recipe.prefix.digest not in training:
                self.held.remove(flight)
                return flight
        while self._may_ask():
            asked = self._ask()
            if asked is None or asked.recipe.prefix.digest not in training:
                return asked
            self.held.append(asked)
        return None

    def _may_ask(self) -> bool:
        timeout = self.config.search.timeout
        late = timeout is not None and time.time() - self.started > timeout
        return not late and not self.exhausted and len(self.held) < 4 * self.crew.workers and (
            len(self.seen) < self.config.search.trials)

    def _ask(self) -> Flight | None:
        """The next recipe that is new; None when the space seems exhausted."""
        for _ in range(REASKS):
            trial = self.study.ask()
            try:
                recipe = self._recipe(trial)
            except Exhausted:
                book.put_aside(self.study, trial, trial.number)
                break
            if recipe.digest not in self.seen:
                self._write_ahead(trial, recipe)
                return Flight(trial, recipe, attempt=0)
            book.put_aside(self.study, trial, self.seen[recipe.digest])
        self.exhausted = True
        return None

    def _recipe(self, trial: optuna.Trial) -> Recipe:
        """As the sampler proposes, or the one that the trial was given."""
        given = trial.user_attrs.get(book.GIVEN)
        return from_json(given) if given else self.space.decode(suggest(trial, self.space))

    def _write_ahead(self, trial: optuna.Trial, recipe: Recipe) -> None:
        self.seen[recipe.digest] = trial.number
        trial.set_user_attr(book.RECIPE, recipe.json)
        trial.set_user_attr(book.DIGEST, recipe.digest)

    def _submit(self, flight: Flight, shared: Any) -> None:
        flight.attempt += 1
        flight.submitted = time.time()
        flight.deadline = flight.submitted + self.config.search.trial_timeout
        flight.trial.set_user_attr(book.ATTEMPT, flight.attempt)
        flight.trial.set_user_attr(book.STARTED, flight.submitted)
        number = flight.trial.number
        trained, trained_s = self.trained.get(flight.recipe.prefix.digest, (None, 0.0))
        job = Job(number, flight.recipe.json, trained, trained_s, flight.trial.user_attrs.get(book.FILE))
        self.crew.submit(number, run, job, shared)
        self.out[number] = flight

    def _land(self, number: int, result: Outcome | Fault) -> None:
        flight = self.out.pop(number)
        if isinstance(result, Outcome):
            self._tell(flight, result)
        elif result.kind is Kind.FATAL or isinstance(result.error, RunError):
            raise result.error or RunError(result.reason)
        elif result.kind is Kind.RAISED:
            self._tell(flight, Outcome("failed", result.reason))
        elif flight.attempt >= self.config.search.max_attempts:
            self._tell(flight, Outcome("failed", f"{result.reason} ({flight.attempt} attempts)"))
        else:
            self.held.insert(0, flight)

    def _stop_overdue(self) -> None:
        for number, flight in list(self.out.items()):
            if time.time() > flight.deadline:
                self.crew.drop(number)
                limit = self.config.search.trial_timeout
                self._land(number, Fault(Kind.RAISED, f"stopped after its deadline of {limit:g} s"))

    def _tell(self, flight: Flight, outcome: Outcome) -> None:
        self._write_card(flight, outcome)
        book.tell(self.study, flight.trial, outcome, [n for n, _ in book.objectives(self.config)])
        self._note(flight.recipe, flight.trial.params, outcome.to_json())
        for values in self.promotions.due():
            self._enqueue(values, "promotion")
        if outcome.trained and not self.promotions.is_begun(flight.trial.params):
            for values in self.space.siblings(flight.trial.params):
                self._enqueue(values, "sibling")

    def _enqueue(self, values: Values, origin: str) -> None:
        recipe = self.space.decode(values)
        if recipe.digest not in self.seen:
            self.study.enqueue_trial(values, user_attrs={book.ORIGIN: origin})

    def _write_card(self, flight: Flight, outcome: Outcome) -> None:
        if outcome.state == "complete":
            card = {"recipe": flight.recipe.json, "recipe_digest": flight.recipe.digest,
                    "label": flight.recipe.label, "subject": self.bench.subject.name,
                    "trial": flight.trial.number, "metrics": outcome.metrics, "drop": outcome.drop,
                    "size_only": outcome.size_only, "absent": outcome.absent, "shipped": outcome.shipped,
                    "notes": outcome.notes,
                    "providers": outcome.providers, "untouched": self.bench.untouched,
                    "versions": versions(), "sha256": outcome.sha256}
            Store(self.bench.store).put_card(outcome.sha256, card)

    def _note(self, recipe: Recipe, values: Values, outcome: dict[str, Any]) -> None:
        """A training that others can share, and whether it is to go on."""
        self.promotions.note(values, outcome)
        if outcome.get("trained"):
            self.trained[recipe.prefix.digest] = outcome["trained"], outcome.get("trained_s", 0.0)

    def _trains(self, recipe: Recipe) -> bool:
        return recipe.trains and recipe.prefix.digest not in self.trained


def versions() -> dict[str, str]:
    """Of everything whose version decides what a file contains or how fast it runs."""
    names = ("torch", "onnx", "onnxruntime", "onnxscript", "torch-pruning", "numpy",
             "ai-edge-litert", "ethos-u-vela", "openvino")
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):  # the last three are extras
            found[name] = version(name)
    return found
