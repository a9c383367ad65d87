"""The Ethos-U path on the demo's network: QDQ ONNX -> .tflite -> Vela, agreement, accuracy, time of each step."""

import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import write

from pared.evaluators.accuracy import outputs, scores
from pared.evaluators.export import export
from pared.evaluators.runtimes.litert import LiteRt
from pared.evaluators.runtimes.onnxruntime_cpu import OnnxRuntimeCpu
from pared.evaluators.tflite import to_tflite
from pared.hardware_profiles import vela
from pared.hardware_profiles.backend import Vela
from pared.hardware_profiles.load import known, load
from pared.spaces.passes.int8_static import Int8Static, Int8StaticPass
from pared.spaces.subject import example_inputs

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "fashion_mnist"))
from subject import subject as demo

REPEATS = 5


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the median wall time of `REPEATS` runs in seconds."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - began)
    return result, float(np.median(times))


def compiled(name: str, tflite: bytes) -> dict[str, Any]:
    backend = load(name).backend
    assert isinstance(backend, Vela)
    found, seconds = timed(lambda: vela.compile(tflite, backend))
    return {"profile": name, "vela_s": seconds, "latency_ms": found.latency_ms, "cycles_npu": found.cycles_npu,
            "cycles_total": found.cycles_total, "sram_kib": found.sram_bytes / 1024,
            "dram_kib": found.dram_bytes / 1024, "flash_kib": found.flash_bytes / 1024,
            "npu_ops": len(found.npu_ops), "cpu_ops": found.cpu_ops}


def main() -> None:
    subject = demo()
    test, data = subject.split("test"), subject.split("calibration").inputs[0][:256]
    graph = export(subject.model(), example_inputs(subject))
    step = Int8Static("minmax", "int8", True, "all")
    file = Int8StaticPass().apply(step, graph, {"input0": data})
    content = file.SerializeToString()
    tflite, convert_s = timed(lambda: to_tflite(content))
    session, load_s = timed(lambda: LiteRt.load(tflite, 1))
    onnx_session = OnnxRuntimeCpu.load(content, 1)
    want, got = outputs(onnx_session, test), outputs(session, test)
    steps = np.abs(want - got) / session._output["quantization"][0]
    one = (test.inputs[0][:1],)
    write("vela", {
        "subject": subject.name, "examples": len(test), "versions": {
            name: version(name) for name in ("ethos-u-vela", "ai-edge-litert")},
        "accuracy": {"fp32_onnx": float(scores(OnnxRuntimeCpu.load(graph.SerializeToString(), 1), test, subject).mean()),
                     "int8_onnx": float(scores(onnx_session, test, subject).mean()),
                     "int8_tflite": float(scores(session, test, subject).mean())},
        "agreement": {"max_steps": float(steps.max()), "share_of_outputs_differing": float((steps > 0.5).mean()),
                      "top1": float((want.argmax(1) == got.argmax(1)).mean())},
        "bytes": {"onnx_fp32": graph.ByteSize(), "onnx_int8": len(content), "tflite": len(tflite)},
        "to_tflite_s": convert_s, "litert_load_s": load_s,
        "litert_ms": timed(session.bound(one))[1] * 1e3, "onnxruntime_ms": timed(onnx_session.bound(one))[1] * 1e3,
        "accelerators": [compiled(name, tflite) for name in known() if name.startswith("ethos-")],
    })


if __name__ == "__main__":
    main()
