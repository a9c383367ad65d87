"""LiteRT (TensorFlow Lite) on the CPU, with XNNPACK: what an int8 .tflite computes."""

from collections.abc import Callable, Mapping
from importlib.metadata import version as installed
from typing import Any

import numpy as np

from ...errors import GateError
from ...spaces.subject import Array
from ..tflite.plan import TO_NCHW, TO_NHWC
from ..tflite.writer import missing


class LiteRt:
    """Takes .tflite bytes; images go in and come out as the ONNX file has them (batch, channels, y, x)."""

    provider = "CPU"

    @staticmethod
    def missing() -> str | None:
        return missing()

    @staticmethod
    def version() -> str:
        return installed("ai-edge-litert")

    @staticmethod
    def load(content: bytes, threads: int) -> "LiteRtSession":
        return LiteRtSession(content, threads)


class LiteRtSession:
    """A loaded .tflite; more than its own batch, which is mostly 1, runs one batch after the other."""

    def __init__(self, content: bytes, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        except Exception as error:  # ValueError and RuntimeError, by what the C++ side threw
            raise GateError(f"LiteRT refuses the file: {str(error)[:400]}") from error
        self._inputs = self._interpreter.get_input_details()
        self._output = self._interpreter.get_output_details()[0]
        self.inputs = tuple(str(detail["name"]) for detail in self._inputs)
        self._size = int(self._inputs[0]["shape"][0])
        self.fixed_batch: int | None = self._size
        self.provider_share: Mapping[str, float] = {LiteRt.provider: 1.0}  # all that can be asked for here

    def run(self, inputs: tuple[Array, ...]) -> Array:
        """First output, float32, from float inputs, each (batch, ...)."""
        stored = [_stored(array, detail) for array, detail in zip(inputs, self._inputs, strict=True)]
        rows = []
        for at in range(0, len(inputs[0]), self._size):
            for array, detail in zip(stored, self._inputs, strict=True):
                self._interpreter.set_tensor(detail["index"], array[at : at + self._size])
            self._interpreter.invoke()
            rows.append(self._interpreter.get_tensor(self._output["index"]))
        return _real(np.concatenate(rows), self._output)

    def bound(self, inputs: tuple[Array, ...]) -> Callable[[], None]:
        """One inference on the first batch of `inputs`."""
        for array, detail in zip(inputs, self._inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], _stored(array[: self._size], detail))
        invoke: Callable[[], None] = self._interpreter.invoke
        return invoke


def _stored(array: Array, detail: dict[str, Any]) -> Array:
    """Float (batch, channels, y, x) -> what the file takes; rounded to even, as QuantizeLinear does."""
    array = np.ascontiguousarray(array.transpose(TO_NHWC)) if array.ndim == 4 else array
    scale, zero = detail["quantization"]
    if not scale:
        return array.astype(detail["dtype"], copy=False)
    bounds = np.iinfo(detail["dtype"])
    whole = np.rint(array / np.float32(scale)) + zero
    result: Array = np.clip(whole, bounds.min, bounds.max).astype(detail["dtype"])
    return result


def _real(array: Array, detail: dict[str, Any]) -> Array:
    scale, zero = detail["quantization"]
    if scale:
        array = (array.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    return np.ascontiguousarray(array.transpose(TO_NCHW)) if array.ndim == 4 else array
