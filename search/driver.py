"""The loop: one process owns the study, asks, sends trials out, tells what came back.

A trial is written ahead before it starts, ends exactly once, and is re-adopted by the next driver
when this one dies.
"""

import gc
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import optuna

from ..errors import RunError
from ..spaces.space import Space
from . import study as book
from .config import RunConfig
from .events import Tell, nothing
from .proposals import Flight, Proposals
from .records import Outcome
from .trial import Bench, final_score, run
from .workers import Crew, Fault, Kind

TICK_S = 0.5
MOST_LOSSES = 20  # nodes that one trial may lose before it counts as their murderer
ROUND_S = 0.05  # that a trial which was asked for waits at most for others to go out with it
READY = 1 / 8  # trials that are asked for ahead, as a share of the workers

Watch = Callable[["Driver"], None]


@dataclass
class Driver:
    """Runs a study to its end. `watch` is called after every step, for whoever shows progress.

    What is written within one `group` reaches the disk together.
    """

    study: optuna.Study
    space: Space
    config: RunConfig
    bench: Bench
    crew: Crew
    watch: Watch
    group: book.Group = nullcontext
    out: dict[int, Flight] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    waited_s: float = 0.0
    ended: Counter[str] = field(default_factory=Counter)  # trials that this driver has told, by state
    tell_event: Tell = nothing
    proposals: Proposals = field(init=False)

    def __post_init__(self) -> None:
        self.proposals = Proposals(self.study, self.space, self.config)
        self._hurried = False
        self._directions = [name for name, _ in book.objectives(self.config)]

    def loop(self) -> None:
        """Until the trials are used up, the time is over, or nothing new is left to propose."""
        with self.group(), book.uncollected():
            self.proposals.remember()
        gc.freeze()  # what was read stays: looking through 10,000 trials again and again takes seconds
        finished: list[tuple[int, Any]] = []
        while True:
            with self.group():
                for number, result in finished:
                    self._land(number, result)
                self._stop_overdue()
                flights = self._fill()
            for flight in flights:
                self._send(flight)
            self.watch(self)
            if not self.out and self.proposals.over:
                return
            finished = self.crew.wait(0.0) if self._hurried else self._wait()

    def score_front(self, front: list[str]) -> None:
        """Scores each artefact a last time, once in the life of the run."""
        wanted = [sha for sha in dict.fromkeys(front) if book.final_key(sha) not in self.study.user_attrs]
        for key, sha in enumerate(wanted):
            self.crew.submit(key, final_score, sha, self._shared, stage="score")
        losses, left = 0, len(wanted)
        while left:
            for key, result in self.crew.wait(TICK_S):
                if not isinstance(result, Fault):
                    self.study.set_user_attr(book.final_key(wanted[key]), result)
                    left -= 1
                elif result.kind in (Kind.LOST, Kind.CRASHED) and losses < MOST_LOSSES:
                    losses += 1
                    self.crew.submit(key, final_score, wanted[key], self._shared, stage="score")
                else:
                    raise RunError(f"the final scoring of {wanted[key]}: {result.reason}")
            self.watch(self)

    def _fill(self) -> list[Flight]:
        """Trials for the free workers, written ahead; as many as can be asked for in ROUND_S."""
        flights: list[Flight] = []
        until, self._hurried = time.perf_counter() + ROUND_S, False
        while len(self.out) < self.crew.workers and not self._hurried:
            flight = self.proposals.next(self.crew.workers)
            if flight is None:
                break
            self._take_off(flight)
            flights.append(flight)
            self._hurried = time.perf_counter() > until
        return flights

    def _take_off(self, flight: Flight) -> None:
        flight.attempt += 1
        flight.submitted = time.time()
        flight.deadline = flight.submitted + self.config.search.trial_timeout
        flight.trial.set_user_attr(book.ATTEMPT, flight.attempt)
        flight.trial.set_user_attr(book.STARTED, flight.submitted)
        self.proposals.left(flight)
        self.out[flight.trial.number] = flight

    @cached_property
    def _shared(self) -> Any:
        """What all trials need, the data above all, once in the cluster."""
        return self.crew.share(self.bench)

    def _send(self, flight: Flight) -> None:
        stage = "train" if self.proposals.trains(flight) else "score"
        self.tell_event("started", trial=flight.trial.number, attempt=flight.attempt, stage=stage,
                        recipe=flight.recipe.label)
        self.crew.submit(flight.trial.number, run, self.proposals.job(flight), self._shared, stage=stage,
                         roomier=flight.roomier)

    def _wait(self) -> list[tuple[int, Any]]:
        """What finished. While nothing has, trials are asked for ahead."""
        while True:
            if finished := self.crew.wait(0.0):
                return finished
            with self.group():
                if not self.proposals.ahead(int(self.crew.workers * READY)):
                    break
        began = time.perf_counter()
        finished = self.crew.wait(TICK_S)
        self.waited_s += time.perf_counter() - began
        return finished

    def _land(self, number: int, result: Outcome | Fault) -> None:
        flight = self.out.pop(number)
        self.proposals.returned(flight)
        if isinstance(result, Outcome):
            self._tell(flight, result)
            return
        self.tell_event("fault", trial=number, attempt=flight.attempt, kind=result.kind.value,
                        reason=result.reason)
        if result.kind is Kind.FATAL or isinstance(result.error, RunError):
            raise result.error or RunError(result.reason)
        elif reason := self._gives_up(flight, result):
            self._tell(flight, Outcome("failed", reason))
        else:
            self.proposals.again(flight)

    def _gives_up(self, flight: Flight, fault: Fault) -> str:
        """Why the trial does not run again; empty where it does."""
        if fault.kind is Kind.RAISED:
            return fault.reason
        if fault.kind is Kind.LOST:  # not the trial's own fault: the attempt is not counted
            flight.attempt, flight.losses = flight.attempt - 1, flight.losses + 1
            return f"{fault.reason} ({flight.losses} nodes)" if flight.losses >= MOST_LOSSES else ""
        if fault.kind is Kind.MEMORY:
            again, flight.roomier = flight.roomier, True
            return f"{fault.reason}, also with twice the memory" if again else ""
        last = flight.attempt >= self.config.search.max_attempts
        return f"{fault.reason} ({flight.attempt} attempts)" if last else ""

    def _stop_overdue(self) -> None:
        now = time.time()
        for number, flight in list(self.out.items()):
            if now > flight.deadline:
                self.crew.drop(number)
                limit = self.config.search.trial_timeout
                self._land(number, Fault(Kind.RAISED, f"stopped after its deadline of {limit:g} s"))

    def _tell(self, flight: Flight, outcome: Outcome) -> None:
        book.tell(self.study, flight.trial, outcome, self._directions)
        self.ended[outcome.state] += 1
        self.tell_event("ended", trial=flight.trial.number, state=outcome.state, reason=outcome.reason,
                        node=outcome.node, began=outcome.began,
                        seconds=round(time.time() - flight.submitted, 3))
        self.proposals.told(flight, outcome)
