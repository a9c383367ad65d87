"""Predicted against measured latency on this host: fp32 and int8, variants of one model, different nets.

    python benchmarks/host_latency.py measure [ROUNDS] [FOLDER]   times the nets, minutes, then as below
    python benchmarks/host_latency.py evaluate - [FOLDER]         errors on nets left out of the calibration

FOLDER keeps the exported files between runs. Rounds go over all nets, each timed next to a reference net,
because the speed of a shared machine drifts.
"""

import json
import logging
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from common import RESULTS, write
from nets import ZOO, Build, resnet8, variants

from pared.evaluators.export import export
from pared.evaluators.lane import Lane
from pared.evaluators.runtimes import runtime
from pared.hardware_profiles import graph
from pared.hardware_profiles.calibrate import Measured, calibrate
from pared.hardware_profiles.load import load
from pared.hardware_profiles.predict import predict
from pared.spaces.passes import FILE, Scope, _onnx

BURST_MS, BATCH, PREEMPTED, STEADY = 3.0, 8, 1.1, 0.15
Key = tuple[str, str]  # net, dtype
DTYPES, DRAWS = ("fp32", "int8"), 20
ASKED = {("fp32", "zoo", 5): 0.15, ("fp32", "resnet8", 5): 0.08, ("fp32", "mbv2", 5): 0.08,
         ("int8", "zoo", 8): 0.20, ("int8", "resnet8", 8): 0.10, ("int8", "mbv2", 8): 0.10}  # MAPE


def nets() -> Iterator[tuple[str, str, Build, int]]:
    """Family, name, net, pixels."""
    yield from (("zoo", name, build, pixels) for name, (build, pixels) in ZOO.items())
    yield from variants()


def files(folder: Path) -> dict[Key, Path]:
    """The model file, made where it is missing."""
    made = {}
    for _, name, build, pixels in nets():
        paths = {d: folder / f"{name.replace(' ', '_')}.{d}.onnx" for d in DTYPES}
        if not all(path.exists() for path in paths.values()):
            torch.manual_seed(0)
            for d, model in zip(DTYPES, _exported(build, pixels), strict=True):
                onnx.save(model, paths[d])
        made |= {(name, d): path for d, path in paths.items()}
    return made


def _exported(build: Build, pixels: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    images = _images(BATCH, pixels)
    model = export(_lively(build(), images), (images[:2],))
    scope = Scope(("all",), _onnx.weight_shares(model), (load("host-cpu"),))
    static = FILE["int8_static"]
    step = static.decode(static.usual(scope)[0], scope)
    return model, static.apply(step, model, {"input0": images})


def _lively(net: torch.nn.Module, images: np.ndarray) -> torch.nn.Module:
    """With batch norms that know their inputs, so that activations are neither all zero nor huge."""
    with torch.no_grad():
        for _ in range(20):
            net(torch.from_numpy(images))
    return net.eval()


def _images(count: int, pixels: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, pixels, pixels)).astype(np.float32)


class Timed:
    """One file with a burst of about BURST_MS."""

    def __init__(self, file: bytes, pixels: int) -> None:
        self._once = runtime("onnxruntime").load(file, 1).bound((_images(1, pixels),))
        for _ in range(5):
            self._once()
        self._count = max(1, round(BURST_MS / min(self._burst(1)[0] for _ in range(3))))

    def _burst(self, count: int) -> tuple[float, bool]:
        self._once()  # warms the caches
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        for _ in range(count):
            self._once()
        cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
        return cpu / count / 1e6, wall <= PREEMPTED * cpu

    def ms(self) -> float | None:
        """Thread time of one inference; None when something else ran in between."""
        took, clean = self._burst(self._count)
        return took if clean else None


def timed(paths: dict[Key, Path], rounds: int) -> dict[Key, dict[str, float]]:
    """Milliseconds at the reference net's median speed, spread of the ratio to it, bursts that counted."""
    pixels = {name: px for _, name, _, px in nets()}
    models = {key: Timed(path.read_bytes(), pixels[key[0]]) for key, path in paths.items()}
    reference = Timed(export(resnet8().eval(), (_images(2, 32),)).SerializeToString(), 32)
    pairs: dict[Key, list[tuple[float, float]]] = {key: [] for key in models}
    for number in range(rounds):
        order = [list(models)[i] for i in np.random.default_rng(number).permutation(len(models))]
        for at in range(0, len(order), 10):
            with Lane().quiet():
                for key in order[at:at + 10]:
                    pairs[key] += _beside(reference, models[key])
            time.sleep(0.02)  # lets others into the lane
    speed = median(other for found in pairs.values() for _, other in found)
    return {key: _figures(found, speed) for key, found in pairs.items() if len(found) >= 5}


def _beside(reference: Timed, model: Timed) -> list[tuple[float, float]]:
    """(its milliseconds, the reference's), or nothing when the machine was disturbed or changed its speed."""
    before, mine, after = reference.ms(), model.ms(), reference.ms()
    steady = before and mine and after and abs(before / after - 1) < STEADY
    return [(mine, (before + after) / 2)] if steady else []


def _figures(pairs: list[tuple[float, float]], speed: float) -> dict[str, float]:
    """The lower quartile, as neighbours on the machine only ever add: to nets that they push out of the
    cache, more than to the reference."""
    low, middle, high = np.percentile([mine / reference for mine, reference in pairs], [25, 50, 75])
    return {"ms": float(low) * speed, "spread": float((high - low) / middle), "bursts": len(pairs)}


def measure(rounds: int, folder: Path) -> None:
    logging.disable(logging.WARNING)  # the quantizer tells of each bias it copies
    paths = files(folder)
    figures = timed(paths, rounds)
    rows = []
    for family, name, _, pixels in nets():
        for dtype in DTYPES:
            if (name, dtype) not in figures:
                continue
            kernels = graph.read(paths[name, dtype])
            rows.append({"net": name, "family": family, "pixels": pixels, "dtype": dtype, **figures[name, dtype],
                         "macs": sum(k.macs for k in kernels), "n_kernels": len(kernels),
                         "quant_kernels": sum(k.op == "quant" for k in kernels)})
    write("host_latency", {"rounds": rounds, "burst_ms": BURST_MS, "rows": rows})


def evaluate(folder: Path) -> None:
    """Adds to the results: error on the nets that a calibration with k of them has not seen."""
    logging.disable(logging.WARNING)
    figures = json.loads((RESULTS / "host_latency.json").read_text())
    figures.pop("machine")
    paths = files(folder)
    kernels = {key: graph.read(path) for key, path in paths.items()}
    figures["errors"] = [
        {"dtype": dtype, "nets": family, "calibrated_on": k, "asked": ASKED.get((dtype, family, k)),
         **_errors(figures["rows"], kernels, dtype, family, k)}
        for dtype in DTYPES for family in ("zoo", "resnet8", "mbv2") for k in (0, 1, 3, 5, 8, 10)]
    write("host_latency", figures)
    for row in figures["errors"]:
        print("{dtype} {nets:8s} k={calibrated_on:2d} MAPE {mape:7.1%} median {median_ape:6.1%} rank {rank:.3f} "
              "inside {inside:.0%} MACs alone {macs_alone} asked {asked}".format(**row))


def _errors(rows: list[dict[str, Any]], kernels: dict[Key, Sequence[graph.Kernel]], dtype: str,
            family: str, k: int) -> dict[str, float | None]:
    """Means over the draws. `inside`: the share of latencies within their 95 % interval."""
    data = [(kernels[r["net"], dtype], r["ms"]) for r in rows if r["dtype"] == dtype and r["family"] == family]
    profile, draws = load("host-cpu"), []
    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(len(data))
        seen, left = [data[i] for i in order[:k]], [data[i] for i in order[k:]]
        found = calibrate(profile, seen, dtype)
        guesses = [predict(net, found, dtype) for net, _ in left]
        truth = np.array([ms for _, ms in left])
        off = np.abs(np.array([g.latency_ms for g in guesses]) / truth - 1)
        inside = np.mean([g.low_ms <= ms <= g.high_ms for g, ms in zip(guesses, truth, strict=True)])
        draws.append((off.mean(), np.median(off), _rank([g.latency_ms for g in guesses], truth), inside,
                      _macs_alone(seen, left)))
    names = ("mape", "median_ape", "rank", "inside", "macs_alone")
    return {name: None if math.isnan(mean) else float(mean)
            for name, mean in zip(names, np.mean(draws, axis=0), strict=True)}


def _macs_alone(seen: list[Measured], left: list[Measured]) -> float:
    """Error of the simplest rival: MACs times the median rate of the measured nets."""
    per_mac = [ms / _macs(net) for net, ms in seen]
    return float(np.mean([abs(np.median(per_mac) * _macs(net) / ms - 1) for net, ms in left])) if seen else math.nan


def _macs(kernels: Sequence[graph.Kernel]) -> int:
    return sum(kernel.macs for kernel in kernels)


def _rank(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's correlation."""
    return float(np.corrcoef(*(np.argsort(np.argsort(values)) for values in (one, other)))[0, 1])


def main() -> None:
    folder = Path(sys.argv[3]) if sys.argv[3:] else Path(tempfile.gettempdir()) / "pared-host-files"
    folder.mkdir(exist_ok=True)
    if sys.argv[1:2] == ["measure"]:
        measure(int(sys.argv[2]) if sys.argv[2:] else 60, folder)
    evaluate(folder)


if __name__ == "__main__":
    main()
