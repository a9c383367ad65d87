"""Qualcomm's NPU (Hexagon), checked without one: does the whole file compile and run there?

`onnxruntime-qnn` brings the compiler and an x86 emulator of the NPU. The emulator's outputs are those
of the device; its time follows the host, and its cycles do as well: two runs of one file read 23.0 and
13.4 million. So this runtime answers whether, and never how fast.
"""

from collections.abc import Callable
from importlib.metadata import version as installed
from importlib.util import find_spec
from typing import Any

import onnx
import onnxruntime as ort

from ...errors import GateError, UserError
from ...spaces.subject import Array
from .onnxruntime_cpu import OrtSession, session_options

BATCH = 1  # the NPU takes static shapes only


class Qnn:
    """The QNN provider on its HTP backend; a file is deployable when it takes every node."""

    provider = "QNNExecutionProvider"
    timed = False

    @staticmethod
    def missing() -> str | None:
        return None if find_spec("onnxruntime_qnn") else "pip install 'pared[qnn]'"

    @staticmethod
    def version() -> str:
        return installed("onnxruntime-qnn")

    @staticmethod
    def load(content: bytes, threads: int) -> "QnnSession":
        options = session_options(threads)
        for name in _free_dimensions(content):
            options.add_free_dimension_override_by_name(name, BATCH)
        import onnxruntime_qnn

        options.add_provider_for_devices(_devices(onnxruntime_qnn.get_library_path()),
                                         {"backend_path": onnxruntime_qnn.get_qnn_htp_path()})
        return QnnSession(content, [Qnn.provider], options, least=1.0, chosen=True)


class QnnSession(OrtSession):
    """Runs on the emulator; it can be compared, not timed."""

    def bound(self, inputs: tuple[Array, ...]) -> Callable[[], None]:
        raise UserError("runtime qnn emulates the NPU: it says whether a file runs there, not how fast; "
                        "for a latency use a profile with backend analytic or command")


def _devices(library: str) -> list[Any]:
    """The plug-in's device, which is registered once a process."""
    if not (found := _registered()):
        try:
            ort.register_execution_provider_library(Qnn.provider, library)
        except Exception as error:  # the runtime's own exception types are not exported
            version = ort.__version__
            raise GateError(f"ONNX Runtime {version} does not take the QNN plug-in: {error}") from error
        found = _registered()
    if not found:
        raise GateError("the QNN plug-in offers no device on this machine")
    return found[:1]


def _registered() -> list[Any]:
    return [device for device in ort.get_ep_devices() if device.ep_name == Qnn.provider]


def _free_dimensions(content: bytes) -> set[str]:
    """Names of the dimensions that the file leaves open."""
    return {dimension.dim_param for value in onnx.load_from_string(content).graph.input
            for dimension in value.type.tensor_type.shape.dim if dimension.dim_param}
