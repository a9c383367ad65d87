"""Nodes that do not answer: frozen, or cut off the network.

Ray's own health check takes minutes to call such a node dead, and may never fail what runs there. So each
node has an actor that is asked for a sign of life.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SILENT_S, STARTING_S = 15.0, 60.0  # how long an answer may take; the first one


@ray.remote(num_cpus=0, max_restarts=-1)
class _Pulse:
    def beat(self) -> None:
        """Returns while the node lives."""


@dataclass
class _Node:
    pulse: Any
    asked: Any
    since: float
    allowed_s: float = STARTING_S

    def renewed(self, now: float) -> bool:
        """Whether it has answered; it is asked again then."""
        if not ray.wait([self.asked], timeout=0)[0]:
            return now - self.since <= self.allowed_s
        answered = _answered(self.asked)
        self.asked, self.since = self.pulse.beat.remote(), now
        self.allowed_s = SILENT_S if answered else self.allowed_s
        return True


@dataclass
class NodeWatch:
    """`alive` and `silent` are ids of nodes, as of the last look."""

    alive: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    _known: dict[str, _Node] = field(default_factory=dict)

    def look(self, here: Iterable[Mapping[str, Any]]) -> None:
        """At the nodes that Ray calls alive."""
        now = time.monotonic()
        self.alive = {node["NodeID"] for node in here}
        for name in self._known.keys() - self.alive:
            del self._known[name]
        for name in self.alive - self._known.keys():
            self._known[name] = _watched(name, now)
        self.silent = {name for name, node in self._known.items() if not node.renewed(now)}

    def close(self) -> None:
        for node in self._known.values():
            ray.kill(node.pulse)


def _watched(name: str, now: float) -> _Node:
    place = NodeAffinitySchedulingStrategy(name, soft=False)
    pulse = _Pulse.options(scheduling_strategy=place).remote()  # type: ignore[attr-defined]
    return _Node(pulse, pulse.beat.remote(), now)


def _answered(ref: Any) -> bool:
    try:
        ray.get(ref)
    except exceptions.RayError:  # the actor died; Ray starts it again
        return False
    return True
