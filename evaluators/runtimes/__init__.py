"""Programs that execute a model file, one a file, behind one protocol."""

from ...errors import UserError, unknown
from ._base import Runtime, Session
from .onnxruntime_cpu import OnnxRuntimeCpu

RUNTIMES: dict[str, type[Runtime]] = {"onnxruntime": OnnxRuntimeCpu}


def runtime(name: str) -> type[Runtime]:
    """The runtime of that name. Raises UserError: unknown, or not installed (says what to install)."""
    if name not in RUNTIMES:
        raise UserError(unknown("runtime", name, RUNTIMES))
    found = RUNTIMES[name]
    if missing := found.missing():
        raise UserError(f"runtime {name}: {missing}")
    return found


__all__ = ["RUNTIMES", "Runtime", "Session", "runtime"]
