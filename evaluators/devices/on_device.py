"""Measures an ONNX file where it is. Copied to the device; needs Python 3.7, numpy and onnxruntime there.

Prints one line of JSON. It shares no code with pared, which is not installed on the device.
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import onnxruntime as ort

BLOCKS, PREEMPTED = 10, 1.1  # wall over CPU time: above it, something else ran in between


def main() -> None:
    args = _arguments()
    if args.probe:
        print(json.dumps({"runtime": _runtime(), "providers": ort.get_available_providers()}))
        return
    with open(args.file, "rb") as file:
        content = file.read()
    shares = _provider_share(content, args)
    session = ort.InferenceSession(content, _options(args.threads), providers=[args.provider])
    feed = _inputs(session, args.batch)
    told = _timed(lambda: session.run(None, feed), args.runs)
    told.update(runtime=_runtime(), provider_share=shares, sha256=hashlib.sha256(content).hexdigest(),
                governor=_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
                temperature_c=float(_line("/sys/class/thermal/thermal_zone0/temp") or 0) / 1000 or None)
    print(json.dumps(told))


def _arguments() -> Any:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?")
    parser.add_argument("--probe", action="store_true")
    parser.add_argument("--provider", default="CPUExecutionProvider")
    for name, value in (("--threads", 1), ("--batch", 1), ("--runs", 200)):
        parser.add_argument(name, type=int, default=value)
    return parser.parse_args()


def _timed(run: Any, runs: int) -> Any:
    """Milliseconds: the median of the undisturbed runs, the spread that of the medians of ten blocks."""
    for _ in range(max(3, runs // 10)):
        run()
    samples = []
    for _ in range(max(runs, BLOCKS)):
        wall, cpu = time.perf_counter(), time.thread_time()
        run()
        samples.append(((time.perf_counter() - wall) * 1e3, (time.thread_time() - cpu) * 1e3))
    walls = [wall for wall, _ in samples]
    calm = [wall for wall, cpu in samples if wall <= PREEMPTED * cpu]
    kept = calm if len(calm) >= len(walls) / 3 else walls  # a GPU or several threads: all of them
    size = max(1, len(kept) // BLOCKS)
    medians = [statistics.median(kept[i : i + size]) for i in range(0, size * min(BLOCKS, len(kept)), size)]
    latency_ms = statistics.median(kept)
    # Standard error of the median of blocks, relative.
    spread = statistics.stdev(medians) / latency_ms / len(medians) ** 0.5 if len(medians) > 1 else 0.0
    p50, p90 = np.percentile(walls, [50, 90])
    return {"latency_ms": latency_ms, "spread": spread, "p50_ms": float(p50), "p90_ms": float(p90),
            "min_ms": min(walls), "runs": len(walls)}


def _provider_share(content: bytes, args: Any) -> Any:
    """Share of the executed nodes by provider, from one profiled inference: every version tells that."""
    with tempfile.TemporaryDirectory() as folder:
        options = _options(args.threads)
        options.enable_profiling, options.profile_file_prefix = True, os.path.join(folder, "profile")
        session = ort.InferenceSession(content, options, providers=[args.provider])
        session.run(None, _inputs(session, args.batch))
        with open(session.end_profiling()) as file:
            events = json.load(file)
    ran = [event["args"]["provider"] for event in events if event.get("args", {}).get("provider")]
    return {provider: ran.count(provider) / len(ran) for provider in set(ran)}


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return options


def _inputs(session: Any, batch: int) -> Any:
    """Normal noise; zeros for whole numbers, which may be indices. The first open dimension is the batch."""
    noise, feed = np.random.default_rng(0), {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        if shape and not isinstance(value.shape[0], int):
            shape[0] = batch
        half, real = "float16" in value.type, "float" in value.type or "double" in value.type
        name = value.type[len("tensor(") : -1].replace("double", "float64")
        dtype = np.float16 if half else np.dtype("float32" if name == "float" else name)
        feed[value.name] = noise.normal(size=shape).astype(dtype) if real else np.zeros(shape, dtype)
    return feed


def _runtime() -> str:
    return "onnxruntime " + str(ort.__version__)


def _line(path: str) -> str:
    try:
        with open(path) as file:
            return file.readline().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
