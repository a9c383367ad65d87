"""Where trials run: Ray tasks that keep nothing, one exclusive measuring actor per device.

The only file that imports Ray. Ray never retries on its own (that would hide a crash and defeat the
limit on attempts); every fault comes back to the driver as a `Fault` with its kind.
"""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import ray
from ray import exceptions

from ..errors import CandidateError, ConfigError, ParedError, UserError
from ..evaluators.devices import Reading, device
from ..evaluators.lane import Lane
from ..hardware_profiles.backend import Node
from ..hardware_profiles.profile import HardwareProfile

MEASURE_ATTEMPTS = 3


class Kind(Enum):
    """What went wrong, as far as it decides what to do next."""

    RAISED = "raised"  # the code failed: trying again cannot help
    LOST = "lost"  # the worker or its node died: the same trial runs again
    MEMORY = "memory"  # killed for memory
    CANCELLED = "cancelled"  # by us, at its deadline
    FATAL = "fatal"  # the cluster cannot run this at all


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    reason: str
    error: ParedError | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """What a running task last said of itself."""

    doing: str
    node: str
    pid: int


class Crew:
    """Runs functions of the form `f(*args, measure, report)` on the workers of one cluster."""

    def __init__(
        self,
        address: str,
        workers: int | None,
        cpus: int,
        profiles: tuple[HardwareProfile, ...],
    ) -> None:
        self.cpus = cpus
        self._embedded = _connect(address, workers, cpus)
        self.workers = workers or max(1, int(_resources().get("CPU", 1)) // cpus)
        _check_fits(cpus, profiles)
        self._board = _Board.remote()  # type: ignore[attr-defined]
        self._devices = {profile.name: _lane(profile) for profile in profiles}
        self._running: dict[Any, int] = {}  # ref -> key

    def share(self, value: object) -> Any:
        """Puts a value where every worker can read it without a copy."""
        return ray.put(value)

    def submit(self, key: int, function: Callable[..., Any], *args: object) -> None:
        """Starts `function(*args, measure, report)`; its result comes out of `wait` under `key`."""
        task = _task.options(num_cpus=self.cpus)
        ref = task.remote(key, function, _import_path(), self._devices, self._board, args)
        self._running[ref] = key

    def wait(self, timeout_s: float) -> list[tuple[int, Any]]:
        """What finished, oldest first: (key, result or Fault); waits at most `timeout_s`."""
        if not self._running:
            return []
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        if done:
            done, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [(self._running.pop(ref), _result(ref)) for ref in done]

    def call(self, function: Callable[..., Any], *args: object) -> Any:
        """Runs one function and returns its result. Raises UserError, or ParedError for a fault."""
        self.submit(-1, function, *args)
        while not (done := self.wait(60)):
            pass
        result = done[0][1]
        if isinstance(result, Fault):
            raise result.error or ParedError(result.reason)
        return result

    def drop(self, key: int) -> None:
        """Stops a task; whatever it still returns is ignored."""
        for ref in [ref for ref, mine in self._running.items() if mine == key]:
            del self._running[ref]
            with contextlib.suppress(Exception):
                ray.cancel(ref, force=True)

    def notes(self) -> Mapping[int, Note]:
        """What the running tasks last said."""
        try:
            notes: Mapping[int, Note] = ray.get(self._board.read.remote(), timeout=2)
        except exceptions.RayError:
            return {}
        return notes

    def close(self) -> None:
        if self._embedded:
            ray.shutdown()
        else:
            for actor in (self._board, *self._devices.values()):
                if not isinstance(actor, HardwareProfile):
                    ray.kill(actor)


@ray.remote(num_cpus=0)
class _Board:
    """Where running tasks post what they are doing."""

    def __init__(self) -> None:
        self._notes: dict[int, Note] = {}

    def post(self, key: int, note: Note) -> None:
        self._notes[key] = note

    def read(self) -> dict[int, Note]:
        return self._notes


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class _Lane:
    """Measures on one device, one file at a time."""

    def __init__(self, profile: HardwareProfile) -> None:
        self._device = device(profile)

    def read(self, *args: Any) -> Reading:
        return self._device.read(*args)


def _lane(profile: HardwareProfile) -> Any:
    """An actor that has the device to itself; the profile where any worker can work the figure out."""
    if not device(profile).exclusive:
        return profile
    backend = profile.backend
    # On the device's own node: that resource is there once, so that the lane is exclusive in the cluster.
    place = {backend.resource: 1} if isinstance(backend, Node) else {}
    return _Lane.options(resources=place).remote(profile)  # type: ignore[attr-defined]


@ray.remote(max_retries=0)
def _task(
    key: int,
    function: Callable[..., Any],
    import_path: list[str],
    devices: dict[str, Any],
    board: Any,
    args: tuple[object, ...],
) -> Any:
    # The path first, then what is unpickled with it. A runtime_env would do the same, but its workers
    # never start where the path of the interpreter has a space (Ray 2.60).
    sys.path[:0] = [folder for folder in import_path if folder not in sys.path]
    args = tuple(ray.get(arg) if isinstance(arg, ray.ObjectRef) else arg for arg in args)
    host, pid = socket.gethostname(), os.getpid()

    def report(doing: str) -> None:
        board.post.remote(key, Note(doing, host, pid))

    def measure(profile: str, *what: Any) -> Reading:
        return _read(profile, devices[profile], what)

    return function(*args, measure, report)


def _read(name: str, lane: Any, what: tuple[Any, ...]) -> Reading:
    if isinstance(lane, HardwareProfile):
        with Lane().working():
            return device(lane).read(*what)
    for attempt in range(MEASURE_ATTEMPTS):
        try:
            reading: Reading = ray.get(lane.read.remote(*what))
            return reading
        except exceptions.RayTaskError as error:
            cause: BaseException = error.as_instanceof_cause()  # type: ignore[no-untyped-call]
            raise cause from None
        except exceptions.RayActorError as error:
            if attempt == MEASURE_ATTEMPTS - 1:
                raise CandidateError(f"the measuring lane of {name} died: {error}") from error
    raise AssertionError


def _connect(address: str, workers: int | None, cpus: int) -> bool:
    """Joins or starts a cluster; True when it is ours to stop."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR,
                              "configure_logging": True}
    try:
        if address == "local":
            slots = workers * cpus if workers else os.cpu_count()
            ray.init(address="local", num_cpus=slots, include_dashboard=False, **common)
        else:
            ray.init(address=address, **common)
    except Exception as error:  # Ray raises bare exceptions here
        raise ConfigError(f"cluster.address {address!r}: {_first(error)}; allowed: local, auto, or the "
                          "HOST:PORT of a running Ray cluster (RAY_AUTH_MODE=token where it asks for one)"
                          ) from error
    return True


def _import_path() -> list[str]:
    """What this process imports beside installed packages, workers import as well: the user's own code."""
    installed = (sys.prefix, sys.base_prefix)
    return [os.path.abspath(folder) for folder in sys.path if not folder.startswith(installed)]


def _check_fits(cpus: int, profiles: tuple[HardwareProfile, ...]) -> None:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    most = max((int(n["Resources"].get("CPU", 0)) for n in nodes if n["Alive"]), default=0)
    if cpus > most:
        raise ConfigError(f"cluster.cpus_per_worker is {cpus}, the largest node has {most} CPUs")
    devices = sorted(name for name in _resources() if name.startswith("device:"))
    for profile in profiles:
        backend = profile.backend
        if isinstance(backend, Node) and backend.resource not in devices:
            raise ConfigError(
                f"profile {profile.name} measures on a node with {backend.resource!r}; the cluster has "
                f"{', '.join(devices) or 'no device node'}. On the device: ray start --address=HOST:PORT "
                f"--num-cpus=0 --resources='{{\"{backend.resource}\": 1}}'")


def _resources() -> dict[str, float]:
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return total


def _result(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except exceptions.TaskCancelledError:
        return Fault(Kind.CANCELLED, "stopped at its deadline")
    except exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, ParedError) else None
        return Fault(Kind.RAISED, str(error).strip().splitlines()[-1][:1000], cause)
    except exceptions.OutOfMemoryError as error:
        return Fault(Kind.MEMORY, f"killed for memory: {_first(error)}")
    except (exceptions.RuntimeEnvSetupError, exceptions.TaskUnschedulableError) as error:
        return Fault(Kind.FATAL, _first(error), UserError(f"the cluster cannot run a trial: {error}"))
    except exceptions.RayError as error:
        return Fault(Kind.LOST, f"{type(error).__name__}: {_first(error)}")


def _first(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:300]


@contextlib.contextmanager
def crew(
    address: str,
    workers: int | None,
    cpus: int,
    profiles: tuple[HardwareProfile, ...],
) -> Iterator[Crew]:
    """A crew that is dismissed at the end, whatever happens."""
    made = Crew(address, workers, cpus, profiles)
    try:
        yield made
    finally:
        made.close()
