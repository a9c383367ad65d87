"""ONNX Runtime on the CPU, at the optimisation level that is deployed (all)."""

from collections.abc import Callable

import onnxruntime as ort

from ...errors import GateError
from ...spaces.subject import Array


class OnnxRuntimeCpu:
    """The CPU provider; it is always there and takes every node."""

    provider = "CPUExecutionProvider"

    @staticmethod
    def missing() -> str | None:
        return None

    @staticmethod
    def version() -> str:
        return str(ort.__version__)

    @staticmethod
    def load(content: bytes, threads: int) -> "OrtSession":
        return OrtSession(content, OnnxRuntimeCpu.provider, threads)


class OrtSession:
    """A file loaded for one provider."""

    def __init__(self, content: bytes, provider: str, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin while idle would disturb whoever shares the machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(content, options, providers=[provider])
        except Exception as error:  # the runtime's own exception types are not exported
            raise GateError(f"ONNX Runtime refuses the file: {str(error)[:400]}") from error
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self._output = self._session.get_outputs()[0].name
        batch = self._session.get_inputs()[0].shape[0]
        self.fixed_batch = batch if isinstance(batch, int) else None

    def run(self, inputs: tuple[Array, ...]) -> Array:
        feed = dict(zip(self.inputs, inputs, strict=True))
        result: Array = self._session.run([self._output], feed)[0]
        return result

    def bound(self, inputs: tuple[Array, ...]) -> Callable[[], None]:
        binding = self._session.io_binding()
        for name, array in zip(self.inputs, inputs, strict=True):
            binding.bind_cpu_input(name, array)
        binding.bind_output(self._output)
        session = self._session

        def once() -> None:
            session.run_with_iobinding(binding)

        return once
