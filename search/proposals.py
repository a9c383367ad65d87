"""What to run next: waiting trials first, then what the sampler proposes, each recipe once."""

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..spaces.recipe import Recipe, from_json
from ..spaces.space import Space, Values
from . import study as book
from .config import RunConfig
from .inherit import Inheritance
from .promotion import Promotions
from .records import Job, Outcome
from .sampler import Exhausted
from .suggest import distribution, suggest

REASKS = 50  # proposals of the sampler in a row that were tried already, before the space counts as exhausted


@dataclass
class Flight:
    """A trial that is out, or is to go out."""

    trial: optuna.Trial
    recipe: Recipe
    values: Values
    attempt: int = 0
    losses: int = 0  # times that its node went away
    roomier: bool = False
    deadline: float = 0.0
    submitted: float = 0.0
    prefix: str = field(init=False)
    file: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.prefix, self.file = self.recipe.prefix.digest, self.trial.user_attrs.get(book.FILE)


class Proposals:
    """Alone asks the study."""

    def __init__(self, study: optuna.Study, space: Space, config: RunConfig) -> None:
        self.study, self.space, self.config = study, space, config
        self.seen: dict[str, int] = {}  # recipe digest -> trial
        # Prefix digest -> sha256 of the float file, and the seconds it took to train.
        self.trained: dict[str, tuple[str, float]] = {}
        self.promotions = Promotions(space, partial(book.losses, config))
        self.exhausted = False
        self._started = time.time()
        self._held: deque[Flight] = deque()
        self._in_line: set[str] = set()  # digests of recipes that the study has waiting
        self._training: Counter[str] = Counter()  # prefixes that are being trained

    def remember(self) -> None:
        """Takes up what earlier drivers left: finished recipes, trained prefixes, running trials."""
        for digest, each in self.study.user_attrs.get(book.TRAINED, {}).items():
            self.trained[digest] = tuple(each)
        running: list[FrozenTrial] = []
        trials = self.study.get_trials(deepcopy=False)
        self._in_line |= {trial.user_attrs[book.DIGEST] for trial in trials
                          if trial.state == TrialState.WAITING and book.DIGEST in trial.user_attrs}
        for frozen in book.real(trials):
            if frozen.state == TrialState.RUNNING:
                running.append(frozen)
            elif book.RECIPE in frozen.user_attrs:
                recipe = from_json(frozen.user_attrs[book.RECIPE])
                self.seen[recipe.digest] = frozen.number
                self.note(recipe, self.space.exact(frozen.params), frozen.user_attrs.get(book.OUTCOME, {}))
        for frozen in running:
            self._adopt(frozen)
        for values in self.space.anchors():
            self._enqueue(values, "anchor")

    def inherit(self, found: Inheritance) -> None:
        """Has all that another run knows scored here first, and no training done twice."""
        self.study.set_user_attr(book.TRAINED, {name: list(each) for name, each in found.trained.items()})
        self._enqueue(self.space.anchors()[0], "anchor")
        variants: list[Values] = []
        for each in found.known:
            values = self.space.snapped(each.values)
            recipe = self.space.decode(values)
            self._line_up(each.recipe, values if recipe == each.recipe else {},
                          {book.ORIGIN: "known", book.FILE: each.sha256})
            if recipe.prefix.digest in found.trained:
                variants += self.space.siblings(values)
        for values in variants:
            self._enqueue(values, "sibling")

    def next(self, workers: int) -> Flight | None:
        """The next trial to send out; those wait that need a training which another one is doing."""
        for flight in self._held:
            if flight.prefix not in self._training:
                self._held.remove(flight)
                return flight
        while len(self._held) < 4 * workers and (asked := self._ask()):
            if asked.prefix not in self._training:
                return asked
            self._held.append(asked)
        return None

    def ahead(self, most: int) -> bool:
        """Asks for one more trial unless `most` are ready; whether it did."""
        if sum(flight.prefix not in self._training for flight in self._held) >= most:
            return False
        asked = self._ask()
        if asked:
            self._held.append(asked)
        return asked is not None

    def again(self, flight: Flight) -> None:
        """It goes out before all others."""
        self._held.appendleft(flight)

    @property
    def over(self) -> bool:
        """Whether nothing is left to be sent out."""
        return not self._held and not self._may_ask()

    def job(self, flight: Flight) -> Job:
        """As it goes out now."""
        trained, trained_s = self.trained.get(flight.prefix, (None, 0.0))
        return Job(flight.trial.number, flight.recipe.json, trained, trained_s, flight.file, flight.attempt)

    def trains(self, flight: Flight) -> bool:
        return flight.recipe.trains and flight.prefix not in self.trained

    def left(self, flight: Flight) -> None:
        if self.trains(flight):
            self._training[flight.prefix] += 1

    def returned(self, flight: Flight) -> None:
        self._training.pop(flight.prefix, None)

    def told(self, flight: Flight, outcome: Outcome) -> None:
        """What its end means for others: variants of what it trained, trainings that go on."""
        self.note(flight.recipe, flight.values, outcome.to_json())
        for promoted in self.promotions.due():
            self._enqueue(promoted, "promotion")
        if outcome.trained and not self.promotions.is_begun(flight.values):
            for sibling in self.space.siblings(flight.values):
                self._enqueue(sibling, "sibling")

    def note(self, recipe: Recipe, values: Values, outcome: Mapping[str, Any]) -> None:
        """A training that others can share, and whether it is to go on."""
        self.promotions.note(values, outcome)
        if outcome.get("trained"):
            self.trained[recipe.prefix.digest] = outcome["trained"], outcome.get("trained_s", 0.0)

    def _may_ask(self) -> bool:
        timeout = self.config.search.timeout
        late = timeout is not None and time.time() - self._started > timeout
        return not late and not self.exhausted and len(self.seen) < self.config.search.trials

    def _ask(self) -> Flight | None:
        """The next recipe that is new; None when there is none, or the run is to have no more."""
        repeats = 0
        while repeats < REASKS and self._may_ask():
            trial = self.study.ask()
            try:
                recipe = self._recipe(trial)
            except Exhausted:
                book.put_aside(self.study, trial, trial.number)
                break
            if recipe.digest not in self.seen:
                return self._written_ahead(trial, recipe)
            book.put_aside(self.study, trial, self.seen[recipe.digest])
            repeats += book.ORIGIN not in trial.user_attrs
        self.exhausted = self._may_ask()
        return None

    def _adopt(self, frozen: FrozenTrial) -> None:
        trial = optuna.Trial(self.study, frozen._trial_id)
        recipe = self._recipe(trial)
        attempt = int(frozen.user_attrs.get(book.ATTEMPT, 0))
        if recipe.digest in self.seen:
            book.put_aside(self.study, trial, self.seen[recipe.digest])
            return
        flight = self._written_ahead(trial, recipe)
        # The attempt that died with its driver was not the trial's own fault: it is not counted.
        flight.attempt = max(0, attempt - 1)
        self._held.append(flight)

    def _recipe(self, trial: optuna.Trial) -> Recipe:
        """As the sampler proposes, or the one that the trial was given."""
        given = trial.user_attrs.get(book.RECIPE)
        return from_json(given) if given else self.space.decode(suggest(trial, self.space))

    def _written_ahead(self, trial: optuna.Trial, recipe: Recipe) -> Flight:
        self.seen[recipe.digest] = trial.number
        if book.RECIPE not in trial.user_attrs:
            for name, value in _spelled(recipe).items():
                trial.set_user_attr(name, value)
        return Flight(trial, recipe, self.space.exact(trial.params))

    def _enqueue(self, values: Values, origin: str) -> None:
        values = self.space.snapped(values)
        self._line_up(self.space.decode(values), values, {book.ORIGIN: origin})

    def _line_up(self, recipe: Recipe, values: Values, notes: Mapping[str, str]) -> None:
        """Unless it has been asked for, or waits already. `values` are empty where no knobs spell the recipe.

        With its parameters: `enqueue_trial` would note them as wishes, and each again when it is asked for.
        """
        if recipe.digest in self.seen or recipe.digest in self._in_line:
            return
        self._in_line.add(recipe.digest)
        self.study.add_trial(optuna.create_trial(
            state=TrialState.WAITING, params=values,
            distributions={name: distribution(self.space.knobs[name]) for name in values},
            user_attrs={**_spelled(recipe), **notes}))


def _spelled(recipe: Recipe) -> dict[str, str]:
    return {book.RECIPE: recipe.json, book.DIGEST: recipe.digest}
