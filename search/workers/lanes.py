"""Measuring: one warm actor per device, one file at a time."""

import time
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...evaluators.devices import Reading, device
from ...evaluators.lane import Lane
from ...hardware_profiles.backend import Node
from ...hardware_profiles.profile import HardwareProfile
from ..records import Report
from .faults import LaneLostError

IN_LINE = "in line for "
PATIENCE_S, PAUSE_S = 60.0, 1.0  # how long a device may be away, how often it is looked for


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class _Lane:
    def __init__(self, profile: HardwareProfile) -> None:
        self._device = device(profile)

    def read(self, *args: Any) -> Reading:
        return self._device.read(*args)


def lane(profile: HardwareProfile) -> Any:
    """An actor that has the device to itself; the profile where any worker can work the figure out.

    It is on the driver's own machine, or on the device's node. That resource is there once, so that the lane
    is exclusive in the cluster.
    """
    if not device(profile).exclusive:
        return profile
    backend = profile.backend
    place = ({"resources": {backend.resource: 1}} if isinstance(backend, Node)
             else {"scheduling_strategy": here()})
    return _Lane.options(**place).remote(profile)  # type: ignore[attr-defined]


def here() -> NodeAffinitySchedulingStrategy:
    """The node of the driver; of the cluster's head, where the driver is no part of it."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def read(profile: str, lane: Any, what: tuple[Any, ...], report: Report) -> Reading:
    """On a worker. Raises what the device raised, LaneLostError: it is gone."""
    if isinstance(lane, HardwareProfile):
        with Lane().working():
            return device(lane).read(*what)
    report(f"{IN_LINE}{profile}")
    began = time.monotonic()
    while True:
        try:
            reading: Reading = ray.get(lane.read.remote(*what))
            return reading
        except exceptions.RayTaskError as error:
            cause: BaseException = error.as_instanceof_cause()  # type: ignore[no-untyped-call]
            raise cause from None
        except exceptions.RayActorError as error:
            if time.monotonic() - began > PATIENCE_S:
                raise LaneLostError(f"{profile} is gone since {PATIENCE_S:.0f} s: {error}") from error
            time.sleep(PAUSE_S)
