"""Every runtime that can be used here computes what ONNX Runtime does; the others say what to install."""

import ctypes
import json
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from pared.errors import GateError, UserError
from pared.evaluators.runtimes import RUNTIMES, onnxruntime_cpu, onnxruntime_cuda, runtime, timed
from pared.evaluators.runtimes._base import check_share
from pared.evaluators.runtimes.tensorrt import precisions
from pared.hardware_profiles.backend import Command
from pared.hardware_profiles.load import load
from pared.search import doctor

ONNX_FILES = ("onnxruntime", "openvino", "qnn")  # what runs an ONNX file without a GPU
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 16, 16)).astype(np.float32)
needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="pip install 'pared[openvino]'")
needs_qnn = pytest.mark.skipif(not find_spec("onnxruntime_qnn"), reason="pip install 'pared[qnn]'")


def net(batch: str | int = "batch", tail: tuple[str, ...] = ()) -> bytes:
    """Two convolutions, a pool and a linear layer; then the operators of `tail`."""
    rng, make = np.random.default_rng(1), onnx.helper.make_node
    shapes = {"w1": (16, 8, 3, 3), "w2": (16, 16, 3, 3), "w3": (16, 10)}
    weights = [onnx.numpy_helper.from_array(rng.normal(size=s).astype(np.float32) / 8, n) for n, s in shapes.items()]
    nodes = [make("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]), make("Relu", ["a"], ["b"]),
             make("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1]), make("Relu", ["c"], ["d"]),
             make("GlobalAveragePool", ["d"], ["e"]), make("Flatten", ["e"], ["f"]),
             make("MatMul", ["f", "w3"], ["t0"])]
    nodes += [make(operator, [f"t{i}"], [f"t{i + 1}"]) for i, operator in enumerate(tail)]
    ends = [onnx.helper.make_tensor_value_info(name, 1, shape)
            for name, shape in (("x", [batch, 8, 16, 16]), (f"t{len(tail)}", [batch, 10]))]
    graph = onnx.helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


class Data(CalibrationDataReader):
    def __init__(self) -> None:
        self._left = iter([{"x": IMAGES}])

    def get_next(self) -> Any:
        return next(self._left, None)


def int8(tmp_path: Any) -> bytes:
    quantize_static(onnx.load_from_string(net()), tmp_path / "int8.onnx", Data(), QuantFormat.QDQ,
                    activation_type=QuantType.QInt8, weight_type=QuantType.QInt8)
    return (tmp_path / "int8.onnx").read_bytes()


def usable(name: str) -> Any:
    gap = RUNTIMES[name].missing()
    return pytest.param(name, marks=pytest.mark.skipif(gap is not None, reason=str(gap)))


@pytest.mark.parametrize("name", [usable(name) for name in ONNX_FILES])
def test_a_runtime_computes_what_the_file_says(name: str) -> None:
    expected = runtime("onnxruntime").load(net(), 1).run((IMAGES,))
    session = runtime(name).load(net(), 1)
    batch = session.fixed_batch or 3
    got = session.run((IMAGES[:batch],))
    # The NPU of qnn computes floats in 16 bits.
    assert np.abs(got - expected[:batch]).max() < (1e-2 if name == "qnn" else 1e-5)
    assert session.inputs == ("x",)
    assert session.provider_share == {RUNTIMES[name].provider: 1.0}
    again = session.run((IMAGES[:batch] * 2,))
    assert np.abs(got - expected[:batch]).max() < 1e-2, "an earlier result was overwritten"
    assert np.abs(again - got).max() > 0.1


@pytest.mark.parametrize("name", [usable(name) for name in ONNX_FILES])
def test_a_runtime_refuses_a_file_that_is_none(name: str) -> None:
    with pytest.raises(GateError, match="refuses the file"):
        runtime(name).load(net()[:100] if name != "qnn" else net(tail=("NoSuchOperator",)), 1)


@pytest.mark.parametrize("name", [usable(name) for name in ONNX_FILES if name != "qnn"])
def test_a_bound_inference_runs_and_a_fixed_batch_is_told(name: str) -> None:
    session = runtime(name).load(net(batch=2), 1)
    assert session.fixed_batch == 2 and runtime(name).load(net(), 1).fixed_batch is None
    session.bound((IMAGES[:2],))()


@needs_openvino
def test_openvino_leaves_no_stack_for_signals_that_is_freed() -> None:
    """A Ctrl-C would be a segmentation fault: two models, the first one dropped first."""
    before = signal_stack()
    models = [runtime("openvino").load(net(), 1) for _ in range(2)]
    while models:
        del models[0]
    assert signal_stack() == before


def signal_stack() -> bytes:
    stack = ctypes.create_string_buffer(24)
    assert ctypes.CDLL(None).sigaltstack(None, stack) == 0
    return stack.raw


@needs_openvino
def test_openvino_keeps_the_number_formats_of_the_file(tmp_path: Any) -> None:
    full = runtime("openvino").load(net(), 1)
    assert full.precision_share == {"f32": 1.0}  # type: ignore[attr-defined]
    quantized = runtime("openvino").load(int8(tmp_path), 1)
    share = quantized.precision_share  # type: ignore[attr-defined]
    assert share.get("i8", 0) + share.get("u8", 0) > 0.3
    error = np.abs(quantized.run((IMAGES,)) - full.run((IMAGES,))).max()
    assert 0 < error < 0.1 * np.abs(full.run((IMAGES,))).max()


@needs_openvino
def test_openvino_infers_on_the_calling_thread() -> None:
    """The timing tells a preempted run by the CPU time of its own thread."""
    import time

    once = runtime("openvino").load(net(), 1).bound((IMAGES[:1],))
    once()
    cpu = time.thread_time()
    for _ in range(200):
        once()
    mine = time.thread_time() - cpu
    cpu = time.process_time()
    for _ in range(200):
        once()
    assert mine > 0.5 * (time.process_time() - cpu)


@needs_qnn
def test_qnn_says_which_operators_do_not_run_there_and_gives_no_time() -> None:
    assert not timed("qnn") and timed("onnxruntime")
    with pytest.raises(GateError, match=r"QNNExecutionProvider runs \d+% of the nodes, .*CPU.*\(.*Erf"):
        runtime("qnn").load(net(tail=("Erf",)), 1)
    with pytest.raises(UserError, match="not how fast"):
        runtime("qnn").load(net(), 1).bound((IMAGES[:1],))


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "tensorrt"])
def test_a_runtime_for_gpus_refuses_rather_than_runs_elsewhere(name: str, monkeypatch) -> None:
    if RUNTIMES[name].missing() is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match=f"runtime {name}: (no NVIDIA GPU|.*pip install onnxruntime-gpu)"):
        runtime(name)
    with pytest.raises(GateError, match="is not in this ONNX Runtime"):
        RUNTIMES[name].load(net(), 1)
    monkeypatch.setattr(onnxruntime_cuda, "gpus", lambda: 1)
    assert "pip install onnxruntime-gpu" in str(RUNTIMES[name].missing())


def test_gpus_are_counted_by_the_driver_and_absent_without_one(monkeypatch) -> None:
    class Driver:
        works = 0

        def cuInit(self, flags: int) -> int:
            return self.works

        def cuDeviceGetCount(self, count: Any) -> int:
            count._obj.value = 2
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert onnxruntime_cuda.gpus() == 2
    monkeypatch.setattr(Driver, "works", 100)  # no device
    assert onnxruntime_cuda.gpus() == 0

    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert onnxruntime_cuda.gpus() == 0


def test_a_provider_that_listed_itself_and_took_nothing_is_refused(monkeypatch) -> None:
    """A CUDA build without its libraries: the session opens, and everything runs on the CPU."""
    monkeypatch.setattr(onnxruntime_cpu.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    real = onnxruntime_cpu.ort.InferenceSession
    monkeypatch.setattr(onnxruntime_cpu.ort, "InferenceSession", lambda content, options, providers, enable_fallback:
                        real(content, options, providers=["CPUExecutionProvider"]))
    with pytest.raises(GateError, match=r"CUDAExecutionProvider runs 0% .* CPUExecutionProvider 100% \(Conv, "):
        RUNTIMES["onnxruntime-cuda"].load(net(), 1)


def test_a_share_is_refused_below_a_half() -> None:
    check_share({"A": 0.5, "B": 0.5}, "A")
    with pytest.raises(GateError, match=r"A runs 40% of the nodes, at least 50% must; the rest: B 60% \(Erf\)"):
        check_share({"A": 0.4, "B": 0.6}, "A", others="Erf")
    with pytest.raises(GateError, match="at least 100%"):
        check_share({"A": 0.9, "B": 0.1}, "A", least=1.0)


def test_tensorrt_gets_the_number_formats_of_the_file_and_no_others(tmp_path: Any) -> None:
    assert precisions(net()) == {"trt_fp16_enable": "0", "trt_int8_enable": "0"}
    assert precisions(int8(tmp_path)) == {"trt_fp16_enable": "0", "trt_int8_enable": "1"}
    graph = onnx.load_from_string(net())
    graph.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones(2, np.float16), "w1"))
    assert precisions(graph.SerializeToString())["trt_fp16_enable"] == "1"


def test_the_doctor_lists_every_runtime_and_every_profile() -> None:
    found = json.loads(json.dumps(doctor.examine()))
    assert set(found["runtimes"]) == set(found["providers"]) == set(RUNTIMES)
    for name, state in found["runtimes"].items():
        assert (state == "ready") == (found["providers"][name]["version"] is not None)
    assert found["runtimes"]["onnxruntime"] == found["profiles"]["host-cpu"] == "ready"
    made = doctor.table(found)
    assert made.row_count == len(found["packages"]) + len(found["runtimes"]) + len(found["profiles"])


def test_the_doctor_says_what_a_profile_needs() -> None:
    told = load("host-cpu")
    gaps = {"onnxruntime": None, "openvino": "pip install 'pared[openvino]'", "qnn": None}

    def state(runtime: str = "onnxruntime", backend: Any = told.backend) -> str:
        settings = told.runtime.model_copy(update={"name": runtime})
        return doctor.usable(told.model_copy(update={"runtime": settings, "backend": backend}), gaps)

    assert state() == "ready"
    assert state("openvino") == "pip install 'pared[openvino]'"
    assert "not how fast" in state("qnn") and state("x") == "no runtime 'x'"
    assert state(backend=Command(transport="ssh", host="pi@lab")).endswith(("pi@lab answers", "on the PATH"))
    assert state(backend=Command(transport="local")) == "ready when this machine answers"
