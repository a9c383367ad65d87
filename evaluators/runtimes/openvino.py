"""OpenVINO on the CPU. It reads the very ONNX file, int8 (QDQ) and 4 bit weights included."""

import ctypes
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version as installed
from importlib.util import find_spec
from typing import Any

from ...errors import GateError
from ...spaces.subject import Array
from ._base import check_share

# Not layers that compute: what holds, feeds or converts a tensor.
PLUMBING = frozenset({"Const", "Input", "Output", "Reorder", "Convert", "Reshape", "Transpose"})


class OpenVino:
    """The CPU plug-in of OpenVINO."""

    provider = "CPU"

    @staticmethod
    def missing() -> str | None:
        return None if find_spec("openvino") else "pip install 'pared[openvino]'"

    @staticmethod
    def version() -> str:
        return installed("openvino")

    @staticmethod
    def load(content: bytes, threads: int) -> "OpenVinoSession":
        return OpenVinoSession(content, threads)


class OpenVinoSession:
    """A compiled model. `precision_share`: number format -> share of the layers that compute in it."""

    def __init__(self, content: bytes, threads: int) -> None:
        import openvino

        core = openvino.Core()
        try:
            with _own_signal_stack():
                compiled = core.compile_model(core.read_model(content), OpenVino.provider, _settings(threads))
        except RuntimeError as error:
            raise GateError(f"OpenVINO refuses the file: {_last_line(error)}") from error
        self.provider_share = _device_shares(compiled)
        check_share(self.provider_share, OpenVino.provider)
        self.precision_share = _precision_shares(compiled)
        self.inputs = tuple(value.get_any_name() for value in compiled.inputs)
        batch = compiled.inputs[0].get_partial_shape()[0]
        self.fixed_batch = None if batch.is_dynamic else int(batch.get_length())
        self._tensor, self._request = openvino.Tensor, compiled.create_infer_request()

    def run(self, inputs: tuple[Array, ...]) -> Array:
        self._bind(inputs)
        self._request.infer()
        # A copy: the request reuses its buffer.
        result: Array = self._request.get_output_tensor(0).data.copy()
        return result

    def bound(self, inputs: tuple[Array, ...]) -> Callable[[], None]:
        self._bind(inputs)
        request = self._request

        def once() -> None:
            request.infer(share_outputs=True)  # on this very thread; start_async() would use another

        return once

    def _bind(self, inputs: tuple[Array, ...]) -> None:
        if len(inputs) != len(self.inputs):
            raise ValueError(f"{len(inputs)} inputs for a model of {len(self.inputs)}")
        for index, array in enumerate(inputs):
            self._request.set_input_tensor(index, self._tensor(array))


class _Stack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def _own_signal_stack() -> Iterator[None]:
    """The plug-in gives the thread a stack for signals, to be allowed AMX, and may leave it set once freed.

    The next signal, a Ctrl-C say, would be a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    before, libc = _Stack(), ctypes.CDLL(None)
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def _settings(threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # the core is chosen by whoever measures
        # Without it a float32 file runs in bfloat16 where the CPU can, and is not the file any more.
        "INFERENCE_PRECISION_HINT": "f32",
    }


def _device_shares(compiled: Any) -> Mapping[str, float]:
    devices = compiled.get_property("EXECUTION_DEVICES")
    return {str(device): 1 / len(devices) for device in devices}


def _precision_shares(compiled: Any) -> Mapping[str, float]:
    layers = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    counts = Counter(layer["runtimePrecision"].astype(str) for layer in layers
                     if layer["layerType"].astype(str) not in PLUMBING)
    return {precision: count / counts.total() for precision, count in counts.items()}


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines or ["no reason given"])[-1][:400]
