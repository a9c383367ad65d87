"""The cluster: joining or starting it, what it has, and whether that is enough."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray

from ...errors import ConfigError, UserError
from ...hardware_profiles.backend import Node
from ...hardware_profiles.profile import HardwareProfile
from .code import shipped
from .faults import short

LOCAL = "local"
HEADLESS_S = 30.0  # a head that is restarted with its state has so long


@dataclass(frozen=True, slots=True)
class Needs:
    """What one task has to itself; `memory_bytes` is 0 where nothing is set aside for it."""

    cpus: int = 1
    gpus: float = 0.0
    memory_bytes: float = 0.0

    def doubled(self) -> "Needs":
        """For a task that ran out of memory: as much again, and half as many beside it."""
        most = _largest()
        return replace(self, cpus=min(2 * self.cpus, most.cpus),
                       memory_bytes=min(2 * self.memory_bytes, most.memory_bytes))

    @property
    def options(self) -> dict[str, Any]:
        """As Ray takes them."""
        found: dict[str, Any] = {"num_cpus": self.cpus}
        found |= {"num_gpus": self.gpus} if self.gpus else {}
        return found | ({"memory": int(self.memory_bytes)} if self.memory_bytes else {})

    @property
    def text(self) -> str:
        parts = [f"{self.cpus} CPUs"] + ([f"{self.gpus:g} GPUs"] if self.gpus else [])
        return ", ".join(parts + ([f"{self.memory_bytes / 1e9:.1f} GB"] if self.memory_bytes else []))


def connect(address: str, slots: int | None, code: Iterable[str]) -> bool:
    """Joins or starts a cluster; True when it is ours to leave. Raises ConfigError.

    `slots`: CPUs of a cluster that is started here. `code`: paths that workers import from.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR,
                              "configure_logging": True}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address == LOCAL:
            _start(num_cpus=slots or os.cpu_count(), **common)
        else:
            with shipped(code) as modules:
                ray.init(address=address, runtime_env={"py_modules": modules}, **common)
    except Exception as error:  # Ray raises bare exceptions here
        raise ConfigError(f"cluster.address {address!r}: {short(error)}; allowed: local, auto, and "
                          "HOST:PORT or ray://HOST:PORT of a running Ray cluster (RAY_AUTH_MODE=token where "
                          "it asks for one)") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end the process at once
    return True


def _start(**options: Any) -> None:
    """Once more where the first does not come up: a busy machine, a port that another took meanwhile."""
    try:
        ray.init(address=LOCAL, include_dashboard=False, **options)
    except Exception:
        ray.shutdown()
        ray.init(address=LOCAL, include_dashboard=False, **options)


class Head:
    """Whether the head of the cluster is there. Asked in vain, Ray ends this process after a minute.

    Ray Client has a connection to it, and tells when that breaks.
    """

    def __init__(self) -> None:
        self._address = "" if by_client() else ray.get_runtime_context().gcs_address
        self._seen = time.monotonic()

    def answers(self) -> bool:
        """Raises UserError: it has not for HEADLESS_S."""
        host, _, port = self._address.rpartition(":")
        try:
            if host:
                socket.create_connection((host, int(port)), timeout=1.0).close()
        except OSError as error:
            if time.monotonic() - self._seen > HEADLESS_S:
                raise UserError(f"the head of the cluster, {self._address}, is gone ({error}); `pared resume "
                                "DIR` goes on, with --address on another cluster") from error
            return False
        self._seen = time.monotonic()
        return True


def nodes() -> list[dict[str, Any]]:
    """Those that take tasks, as Ray tells of them."""
    return roll()[0]


def roll() -> tuple[list[dict[str, Any]], set[str]]:
    """The same, and the ids of those that Ray has given up."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    leaving = _leaving()
    return ([node for node in found if node["Alive"] and node["NodeID"] not in leaving],
            {node["NodeID"] for node in found if not node["Alive"]})


def _leaving() -> set[str]:
    """Nodes that were told to go, by a preemption notice for one. Ray Client does not say."""
    return set() if by_client() else set(ray._private.state.state.get_draining_nodes())


def dashboard() -> str:
    """Address of Ray's own page about the cluster; empty where there is none. Ray Client does not say."""
    return "" if by_client() else str(ray._private.worker.get_dashboard_url() or "")  # type: ignore[no-untyped-call]


def by_client() -> bool:
    """Whether this process is outside the cluster."""
    return bool(ray.util.client.ray.is_connected())  # type: ignore[no-untyped-call]


def slots(needs: Needs, here: Iterable[Mapping[str, Any]]) -> int:
    """How many such tasks the nodes `here` hold at a time."""
    return sum(_holds(node["Resources"], needs) for node in here)


def check_fits(stages: Mapping[str, Needs], profiles: tuple[HardwareProfile, ...]) -> None:
    """Raises ConfigError: no node is large enough for a stage, or a device is not in the cluster."""
    here = nodes()
    for name, needs in stages.items():
        if not slots(needs, here):
            raise ConfigError(f"cluster.{name} asks for {needs.text}; the largest node has {_largest().text}"
                              f" (nodes: {'; '.join(_told(node['Resources']) for node in here)})")
    devices = sorted({name for node in here for name in node["Resources"] if name.startswith("device:")})
    for profile in profiles:
        backend = profile.backend
        if isinstance(backend, Node) and backend.resource not in devices:
            raise ConfigError(
                f"profile {profile.name} measures on a node with {backend.resource!r}; the cluster has "
                f"{', '.join(devices) or 'no device node'}. On the device: ray start --address=HOST:PORT "
                f"--num-cpus=0 --resources='{{\"{backend.resource}\": 1}}'")


def _holds(has: Mapping[str, float], needs: Needs) -> int:
    shares = [has.get("CPU", 0) / needs.cpus]
    shares += [has.get("GPU", 0) / needs.gpus] if needs.gpus else []
    shares += [has.get("memory", 0) / needs.memory_bytes] if needs.memory_bytes else []
    return int(min(shares))


def _largest() -> Needs:
    found = [_sized(node["Resources"]) for node in nodes()]
    return max(found, key=lambda node: (node.cpus, node.gpus, node.memory_bytes), default=Needs(0))


def _sized(has: Mapping[str, float]) -> Needs:
    return Needs(int(has.get("CPU", 0)), has.get("GPU", 0.0), has.get("memory", 0.0))


def _told(has: Mapping[str, float]) -> str:
    return _sized(has).text
