"""What can go wrong with a task, as far as it decides what to do next."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import ray
from ray import exceptions

from ...errors import ParedError, UserError, first_line


class Kind(Enum):
    RAISED = "raised"  # the code failed: trying again cannot help
    CRASHED = "crashed"  # the worker died: the same trial runs again, a few times
    LOST = "lost"  # its node or its device went away: runs again, which counts against nobody
    MEMORY = "memory"  # out of memory: runs again once, with more of it
    FATAL = "fatal"  # the cluster cannot run this at all


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    reason: str
    error: ParedError | None = None


class LaneLostError(ParedError):
    """The device that was to measure is gone, and did not come back in time."""


def result_of(ref: Any) -> Any:
    """What a finished task returned, or the Fault that ended it."""
    try:
        return ray.get(ref)
    except exceptions.RayTaskError as error:
        return _raised(error)
    except exceptions.OutOfMemoryError as error:
        return Fault(Kind.MEMORY, f"killed for memory: {short(error)}")
    except (exceptions.RuntimeEnvSetupError, exceptions.TaskUnschedulableError) as error:
        return Fault(Kind.FATAL, short(error), UserError(f"the cluster cannot run a trial: {error}"))
    except (exceptions.WorkerCrashedError, exceptions.TaskCancelledError) as error:
        return Fault(Kind.CRASHED, f"{type(error).__name__}: {short(error)}")
    except exceptions.RayError as error:
        return Fault(Kind.LOST, f"{type(error).__name__}: {short(error)}")


def short(error: BaseException) -> str:
    return first_line(error)[:300]


def _raised(error: exceptions.RayTaskError) -> Fault:
    told = str(error).strip().splitlines()[-1][:1000]
    if isinstance(error.cause, MemoryError):
        return Fault(Kind.MEMORY, "out of memory")
    if isinstance(error.cause, LaneLostError | exceptions.ObjectLostError):
        return Fault(Kind.LOST, told)
    return Fault(Kind.RAISED, told, error.cause if isinstance(error.cause, ParedError) else None)
