"""Latency of one file over another's in thread CPU time, which other work on the machine hardly moves."""

import time
from statistics import median, stdev

import onnx

from pared.evaluators.runtimes import runtime
from pared.spaces.subject import Array

ROUNDS, BURST_MS = 40, 3.0


def ratio(candidate: onnx.ModelProto, reference: onnx.ModelProto, inputs: tuple[Array, ...]) -> dict[str, float]:
    """Bursts of both, in turn, on one thread; `spread` is the coefficient of variation of the ratio."""
    one = tuple(array[:1] for array in inputs)
    runs = [runtime("onnxruntime").load(graph.SerializeToString(), 1).bound(one) for graph in (candidate, reference)]
    counts = [max(1, round(BURST_MS / _burst(run, 5))) for run in runs]
    pairs = [[_burst(run, count) for run, count in zip(runs, counts, strict=True)] for _ in range(ROUNDS)]
    ratios = [mine / theirs for mine, theirs in pairs]
    return {"latency_ratio": median(ratios), "spread": stdev(ratios) / median(ratios),
            "thread_ms": median(mine for mine, _ in pairs)}


def _burst(run: object, count: int) -> float:
    """Milliseconds a run."""
    run()
    started = time.thread_time_ns()
    for _ in range(count):
        run()
    return (time.thread_time_ns() - started) / count / 1e6
