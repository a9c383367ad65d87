"""Nodes that do not answer: dead, frozen, or cut off the network.

Ray calls a dead node dead after 12 s and a frozen one after minutes, and may never fail what runs there: a
worker can outlive its node. So each node is listened to, and has an actor that is asked for a sign of life.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .cluster import by_client
from .line import Line

SILENT_S, STARTING_S = 15.0, 60.0  # how long an answer may take; the first one


@ray.remote(num_cpus=0, max_restarts=-1)
class _Pulse:
    def beat(self) -> None:
        """Returns while the node lives."""


@dataclass
class _Node:
    pulse: Any
    asked: Any
    line: Line | None
    since: float
    allowed_s: float = STARTING_S

    def lives(self, now: float) -> bool:
        return not (self.line and self.line.is_dead()) and self._renewed(now)

    def hang_up(self) -> None:
        if self.line:
            self.line.close()

    def _renewed(self, now: float) -> bool:
        """Whether it has answered, or still may; it is asked again then."""
        if not ray.wait([self.asked], timeout=0)[0]:
            return now - self.since <= self.allowed_s
        answered = _answered(self.asked)
        self.asked, self.since = self.pulse.beat.remote(), now
        self.allowed_s = SILENT_S if answered else self.allowed_s
        return True


@dataclass
class NodeWatch:
    """`alive` and `silent` are ids of nodes, as of the last look."""

    own: str  # the driver's, which lives as long as it does
    alive: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    _known: dict[str, _Node] = field(default_factory=dict)

    def look(self, here: Iterable[Mapping[str, Any]]) -> None:
        """At the nodes that Ray calls alive."""
        now = time.monotonic()
        found = {node["NodeID"]: node for node in here}
        self.alive = set(found)
        for name in self._known.keys() - self.alive:
            self._known.pop(name).hang_up()
        for name in self.alive - self._known.keys() - {self.own}:
            self._known[name] = _watched(found[name], now)
        self.silent = {name for name, node in self._known.items() if not node.lives(now)}

    def close(self) -> None:
        for node in self._known.values():
            node.hang_up()
            ray.kill(node.pulse)


def _watched(node: Mapping[str, Any], now: float) -> _Node:
    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    pulse = _Pulse.options(scheduling_strategy=place).remote()  # type: ignore[attr-defined]
    # From outside the cluster, the addresses of its nodes may be anyone's.
    line = None if by_client() else Line(node["NodeManagerAddress"], node["NodeManagerPort"])
    return _Node(pulse, pulse.beat.remote(), line, now)


def _answered(ref: Any) -> bool:
    try:
        ray.get(ref)
    except exceptions.RayError:  # the actor died; Ray starts it again
        return False
    return True
