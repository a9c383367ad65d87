"""Programs that execute a model file, one a file, behind one protocol."""

from ...errors import UserError, unknown
from ._base import Runtime, Session
from .litert import LiteRt
from .onnxruntime_cpu import OnnxRuntimeCpu
from .onnxruntime_cuda import OnnxRuntimeCuda
from .openvino import OpenVino
from .qnn import Qnn
from .tensorrt import TensorRt

RUNTIMES: dict[str, type[Runtime]] = {
    "litert": LiteRt,
    "onnxruntime": OnnxRuntimeCpu,
    "onnxruntime-cuda": OnnxRuntimeCuda,
    "openvino": OpenVino,
    "qnn": Qnn,
    "tensorrt": TensorRt,
}


def runtime(name: str) -> type[Runtime]:
    """The runtime of that name. Raises UserError: unknown, or not installed (says what to install)."""
    found = named(name)
    if missing := found.missing():
        raise UserError(f"runtime {name}: {missing}")
    return found


def named(name: str) -> type[Runtime]:
    """The runtime of that name, installed here or not. Raises UserError."""
    if name not in RUNTIMES:
        raise UserError(unknown("runtime", name, RUNTIMES))
    return RUNTIMES[name]


def installed(name: str) -> str:
    """The version that is installed here; empty for a runtime that is not, or not known."""
    engine = RUNTIMES.get(name)
    return engine.version() if engine and not engine.missing() else ""


def timed(name: str) -> bool:
    """False for a runtime that says whether a file runs there, and not how fast."""
    return bool(getattr(RUNTIMES.get(name), "timed", True))


__all__ = ["RUNTIMES", "Runtime", "Session", "installed", "named", "runtime", "timed"]
