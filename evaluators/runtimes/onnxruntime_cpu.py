"""ONNX Runtime on the CPU, at the optimisation level that is deployed (all).

Its session serves every other provider of ONNX Runtime as well.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnxruntime as ort

from ...errors import GateError
from ...spaces.subject import Array
from ._base import LEAST_SHARE, check_share

Provider = str | tuple[str, dict[str, str]]  # with its options


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
        return OrtSession(content, [OnnxRuntimeCpu.provider], session_options(threads))


def session_options(threads: int) -> Any:
    """Options that every provider shares."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while idle would disturb whoever shares the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


class OrtSession:
    """A file loaded for the first of `providers`, of which it runs at least the share `least`.

    `chosen`: that provider is in the options already (a plug-in), and `providers` only names it.
    """

    def __init__(self, content: bytes, providers: Sequence[Provider], options: Any,
                 least: float = LEAST_SHARE, chosen: bool = False) -> None:
        first = providers[0] if isinstance(providers[0], str) else providers[0][0]
        if not chosen and first not in ort.get_available_providers():
            raise GateError(f"{first} is not in this ONNX Runtime")
        listed = None if chosen else list(providers)
        try:
            self._session = ort.InferenceSession(content, options, providers=listed, enable_fallback=0)
        except Exception as error:  # the runtime's own exception types are not exported
            raise GateError(f"ONNX Runtime refuses the file: {str(error)[:400]}") from error
        assigned = _assigned(self._session)
        self.provider_share = _shares(assigned, first)
        check_share(self.provider_share, first, least, _operators(assigned, first))
        given, made = self._session.get_inputs(), self._session.get_outputs()
        if not given or not made or not given[0].shape:
            raise GateError("the file has no input with a batch dimension, or no output")
        self.inputs, self._output = tuple(value.name for value in given), made[0].name
        batch = given[0].shape[0]
        self.fixed_batch = batch if isinstance(batch, int) else None

    def run(self, inputs: tuple[Array, ...]) -> Array:
        """Raises GateError where the file does not take them, or fails on them."""
        try:
            feed = dict(zip(self.inputs, inputs, strict=True))
            result: Array = self._session.run([self._output], feed)[0]
        except Exception as error:  # the runtime's own exception types are not exported
            raise GateError(f"ONNX Runtime cannot run the file: {str(error)[:400]}") from error
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


def _assigned(session: Any) -> list[tuple[str, str]]:
    """(provider, operator) of every node, as ONNX Runtime (1.24 and later) recorded it at load."""
    return [(part.ep_name, node.op_type) for part in session.get_provider_graph_assignment_info()
            for node in part.get_nodes()]


def _shares(assigned: list[tuple[str, str]], wanted: str) -> Mapping[str, float]:
    """A graph that folds into constants has no nodes: nothing of it runs elsewhere."""
    counts = Counter(provider for provider, _ in assigned) or Counter([wanted])
    return {provider: count / counts.total() for provider, count in counts.items()}


def _operators(assigned: list[tuple[str, str]], wanted: str) -> str:
    return ", ".join(sorted({operator for provider, operator in assigned if provider != wanted}))
