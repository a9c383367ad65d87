import numpy as np
import onnx
import pytest
from helpers import load_tiny

from pared.errors import GateError
from pared.evaluators.export import export
from pared.evaluators.runtimes.litert import LiteRt, LiteRtSession
from pared.evaluators.runtimes.onnxruntime_cpu import OnnxRuntimeCpu
from pared.evaluators.tflite import to_tflite
from pared.spaces.passes.int8_static import Int8Static, Int8StaticPass

pytest.importorskip("ai_edge_litert", reason="needs: pip install 'pared[npu]'")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return load_tiny().subject().split("validation").inputs[0][:64]


@pytest.fixture(scope="module")
def file(images: np.ndarray) -> onnx.ModelProto:
    graph = export(load_tiny().subject().model(), (images[:2],))
    step = Int8Static("minmax", "uint8", True, "all")
    return Int8StaticPass().apply(step, graph, {"input0": images})


@pytest.fixture
def session(file: onnx.ModelProto) -> LiteRtSession:
    return LiteRt.load(to_tflite(file), threads=1)


def test_session_takes_and_gives_what_the_onnx_file_does(session, file, images) -> None:
    onnx_session = OnnxRuntimeCpu.load(file.SerializeToString(), 1)
    assert session.inputs == onnx_session.inputs
    got, want = session.run((images,)), onnx_session.run((images,))
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert session.fixed_batch == 1 and session.provider_share == {"CPU": 1.0}


def test_a_batch_gives_what_its_examples_give(session, images) -> None:
    alone = np.concatenate([session.run((images[i : i + 1],)) for i in range(8)])
    assert np.array_equal(session.run((images[:8],)), alone)


def test_threads_do_not_change_the_result(file, session, images) -> None:
    assert np.array_equal(LiteRt.load(to_tflite(file), 2).run((images,)), session.run((images,)))


def test_bound_runs_the_example_it_was_given(session, images) -> None:
    once = session.bound((images[3:4],))
    once()
    stored = session._interpreter.get_tensor(session._output["index"])
    scale, zero = session._output["quantization"]
    assert np.allclose((stored.astype(np.float32) - zero) * scale, session.run((images[3:4],)))


def test_inputs_beyond_the_scale_saturate(session, images) -> None:
    assert np.array_equal(session.run((images[:1] * 0 + 1e9,)), session.run((images[:1] * 0 + 1e6,)))


@pytest.mark.parametrize("content", [b"no model", b"\0" * 64])
def test_a_file_that_is_no_tflite_is_refused(content: bytes) -> None:
    with pytest.raises(GateError, match="LiteRT refuses the file"):
        LiteRt.load(content, 1)


def test_it_says_what_to_install_and_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LiteRt.missing() is None and LiteRt.version()[0].isdigit()
    monkeypatch.setattr("pared.evaluators.tflite.writer.find_spec", lambda name: None)
    assert LiteRt.missing() == "pip install 'pared[npu]'"
