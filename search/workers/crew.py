"""The workers of one cluster, as the driver sees them: send a task out, wait for what comes back."""

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import ray
from ray import exceptions

from ...errors import ParedError
from ...evaluators.devices import Reading
from ...hardware_profiles.profile import HardwareProfile
from ..records import Note
from . import lanes
from .cluster import LOCAL, Head, Needs, check_fits, connect, dashboard, nodes, roll, slots
from .code import arrive, import_path
from .faults import Fault, Kind, result_of
from .nodes import SILENT_S, NodeWatch
from .parcel import Parcel

EVERY_S = 1.0  # how often the cluster is looked at


@dataclass(frozen=True, slots=True)
class _Ticket:
    """One sending out of a task: what comes of an earlier one is not mistaken for it."""

    number: int
    key: int
    sent: float
    avoiding: frozenset[str]  # nodes on which it cannot be


class Crew:
    """Runs functions of the form `f(*args, measure, report)` on the workers of one cluster.

    `stages`: what a task of each kind needs; the first is what the number of workers is counted in.
    `code`: paths that the nodes of a cluster import from. Raises ConfigError: no such cluster, or no node of
    it is large enough.
    """

    def __init__(
        self,
        address: str,
        workers: int | None,
        stages: Mapping[str, Needs],
        profiles: tuple[HardwareProfile, ...],
        code: Iterable[str] = (),
    ) -> None:
        self._stages, self._asked = dict(stages), workers
        self._needs = next(iter(self._stages.values()))
        self._embedded = connect(address, workers and workers * self._needs.cpus, code)
        check_fits(self._stages, profiles)
        self._path = import_path() if address == LOCAL else []
        self._board = _Board.options(scheduling_strategy=lanes.here()).remote()  # type: ignore[attr-defined]
        self._lanes = {profile.name: lanes.lane(profile) for profile in profiles}
        self._running: dict[Any, _Ticket] = {}  # by ref
        self._tickets = count()
        self._watch = NodeWatch(ray.get_runtime_context().get_node_id())
        self._head, self._reached, self._looked = Head(), True, time.monotonic()
        self._slots = slots(self._needs, nodes())

    @property
    def workers(self) -> int:
        """Tasks at a time: as many as were asked for, or as the nodes hold that are there now."""
        return (self._asked or self._slots) if self._reached else 0

    @property
    def dashboard(self) -> str:
        """Address of Ray's own page about the cluster; empty where there is none."""
        return dashboard()

    @property
    def silent(self) -> frozenset[str]:
        """Ids of nodes that do not answer."""
        return frozenset(self._watch.silent)

    def share(self, value: object) -> Any:
        """Puts a value where every worker can read it without a copy."""
        return ray.put(Parcel.of(value))

    def submit(
        self, key: int, function: Callable[..., Any], *args: object, stage: str = "", roomier: bool = False
    ) -> None:
        """Starts `function(*args, measure, report)`; its result comes out of `wait` under `key`.

        `roomier`: with twice what its stage needs.
        """
        needs = self._stages.get(stage, self._needs)
        options = (needs.doubled() if roomier else needs).options
        if self._watch.silent:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(self._watch.silent))})"}
        ticket = _Ticket(next(self._tickets), key, time.monotonic(), self.silent)
        ref = _task.options(**options).remote(
            ticket.number, function, self._path, self._lanes, self._board, args)
        self._running[ref] = ticket

    def wait(self, timeout_s: float) -> list[tuple[int, Any]]:
        """What finished, oldest first: (key, result or Fault); waits at most `timeout_s`."""
        if lost := self._look():
            return lost
        if not self._running or not self._reached:
            time.sleep(timeout_s)
            return []
        refs = list(self._running)
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not done and timeout_s and ray.wait(refs, num_returns=1, timeout=timeout_s)[0]:
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return [(self._running.pop(ref).key, result_of(ref)) for ref in done]

    def call(self, function: Callable[..., Any], *args: object) -> Any:
        """Runs one function and returns its result. Raises UserError, or ParedError for a fault."""
        self.submit(-1, function, *args)
        while not (done := self.wait(EVERY_S)):
            pass
        result = done[0][1]
        if isinstance(result, Fault):
            raise result.error or ParedError(result.reason)
        return result

    def drop(self, key: int) -> None:
        """Stops a task; whatever it still returns is ignored."""
        for ref in [ref for ref, ticket in self._running.items() if ticket.key == key]:
            del self._running[ref]
            with suppress(Exception):
                ray.cancel(ref, force=True)

    def notes(self) -> Mapping[int, Note]:
        """What the running tasks last said, by key."""
        if not self._reached:
            return {}
        numbers = {ticket.number: ticket.key for ticket in self._running.values()}
        try:
            notes: Mapping[int, Note] = ray.get(self._board.read.remote(list(numbers)), timeout=2)
        except exceptions.RayError:
            return {}
        return {numbers[number]: note for number, note in notes.items()}

    def queues(self, notes: Mapping[int, Note]) -> dict[str, int]:
        """How many trials each device has before it, the one that is being measured included."""
        lines = [note.doing.removeprefix(lanes.IN_LINE) for note in notes.values()
                 if note.doing.startswith(lanes.IN_LINE)]
        return {name: lines.count(name) for name, lane in self._lanes.items()
                if not isinstance(lane, HardwareProfile)}

    def close(self) -> None:
        self._watch.close()
        if self._embedded:
            ray.shutdown()
            return
        for actor in (self._board, *self._lanes.values()):
            if not isinstance(actor, HardwareProfile):
                ray.kill(actor)

    def _look(self) -> list[tuple[int, Any]]:
        """Who is there now: nodes that join are used at once; what was on others is lost.

        Raises UserError: the head is gone.
        """
        if time.monotonic() - self._looked < EVERY_S:
            return []
        self._looked = time.monotonic()
        self._reached = self._head.answers()
        if not self._reached:
            return []
        here, given_up = roll()
        self._watch.look(here)
        self._slots = slots(self._needs, (n for n in here if n["NodeID"] not in self._watch.silent))
        return self._lost(given_up)

    def _lost(self, given_up: set[str]) -> list[tuple[int, Any]]:
        """Tasks on nodes that are gone or do not answer, or that may be there; dropped."""
        silent = self.silent
        if silent >= self._watch.alive:  # all of them: it is the driver that is cut off
            silent = frozenset()
        if not (silent or given_up) or not self._running:
            return []
        notes, late = self.notes(), time.monotonic() - SILENT_S
        lost = [t.key for t in self._running.values()
                if (notes[t.key].node_id in silent | given_up if t.key in notes
                    else silent - t.avoiding and t.sent < late)]
        for key in lost:
            self.drop(key)
        return [(key, Fault(Kind.LOST, "its node is gone, or does not answer")) for key in lost]


@ray.remote(num_cpus=0, max_restarts=-1)
class _Board:
    """Where running tasks post what they are doing."""

    def __init__(self) -> None:
        self._notes: dict[int, Note] = {}

    def post(self, number: int, note: Note) -> None:
        self._notes[number] = note

    def read(self, numbers: list[int]) -> dict[int, Note]:
        """Of these; the others are over."""
        self._notes = {number: self._notes[number] for number in numbers if number in self._notes}
        return self._notes


@ray.remote(max_retries=0)
def _task(
    number: int,
    function: Callable[..., Any],
    path: list[str],
    devices: dict[str, Any],
    board: Any,
    args: tuple[object, ...],
) -> Any:
    # The path first, then what is unpickled with it. On one machine a runtime_env would do the same, but its
    # workers never start where the path of the interpreter has a space (Ray 2.60).
    arrive(path)
    host, pid, node_id = socket.gethostname(), os.getpid(), ray.get_runtime_context().get_node_id()

    def report(doing: str) -> None:
        board.post.remote(number, Note(doing, host, pid, node_id))

    def measure(profile: str, *what: Any) -> Reading:
        return lanes.read(profile, devices[profile], what, report)

    report("starting")
    args = tuple(ray.get(arg).opened() if isinstance(arg, ray.ObjectRef) else arg for arg in args)
    return function(*args, measure, report)


@contextmanager
def crew(
    address: str,
    workers: int | None,
    stages: Mapping[str, Needs],
    profiles: tuple[HardwareProfile, ...],
    code: Iterable[str] = (),
) -> Iterator[Crew]:
    """A crew that is dismissed at the end, whatever happens."""
    made = Crew(address, workers, stages, profiles, code)
    try:
        yield made
    finally:
        made.close()
