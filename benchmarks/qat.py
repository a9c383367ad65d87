"""Training inside the quantized file against post-training quantization: 8 bits, few bits, one bit.

`python benchmarks/qat.py`: about 15 minutes on one thread. Accuracies are of exported files.
"""

import json
import sys
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from common import RESULTS, write
from small_nets import ROOT, subject

from pared.evaluators import accuracy
from pared.evaluators.export import export
from pared.evaluators.lane import Lane
from pared.evaluators.latency import compare
from pared.evaluators.runtimes import runtime
from pared.hardware_profiles.load import load
from pared.hardware_profiles.optimised import fused
from pared.spaces.graph.trainable import Trainable
from pared.spaces.materials import Materials, Teacher
from pared.spaces.passes import FILE, TUNING
from pared.spaces.passes.binary import Binary
from pared.spaces.passes.int8_static import Int8Static
from pared.spaces.passes.qat import Qat
from pared.spaces.passes.weight_only import WeightOnly
from pared.spaces.subject import Subject, example_inputs

sys.path.insert(0, str(ROOT / "examples" / "fashion_mnist"))
from subject import subject as demo

SEEDS = (0, 1, 2)


def scores(graph: onnx.ModelProto, of: Subject) -> dict[str, float]:
    session = runtime("onnxruntime").load(graph.SerializeToString(), 1)
    return {split: float(accuracy.scores(session, of.split(split), of).mean()) for split in ("validation", "test")}


class Bench:
    """One subject: its float file, its teacher, and what a recipe makes of it."""

    def __init__(self, of: Subject) -> None:
        self.of, self.inputs = of, example_inputs(of)
        self.float = export(of.model(), self.inputs)
        session = runtime("onnxruntime").load(self.float.SerializeToString(), 1)
        self.teacher = Teacher(accuracy.outputs(session, of.split("train")))
        self.data = {self.float.graph.input[0].name: of.split("calibration").inputs[0]}
        self.rows: list[dict[str, Any]] = [{"recipe": "fp32", **scores(self.float, of),
                                            "bytes": self.float.ByteSize()}]

    def post(self, name: str, step: Any) -> onnx.ModelProto:
        graph = FILE[name].apply(step, self.float, self.data)
        FILE[name].check(step, self.float, graph)
        self.rows.append({"recipe": str(step), **scores(graph, self.of), "bytes": graph.ByteSize()})
        return graph

    def tuned(self, before: onnx.ModelProto, what: str, step: Qat, seed: int) -> onnx.ModelProto:
        materials = Materials(self.of, seed, self.teacher, on_step=_silent)
        after = TUNING["qat"].tune(step, before, self.float, materials)
        TUNING["qat"].check(step, before, after)
        self.rows.append({"recipe": f"{what} + {step}", "seed": seed, **scores(after, self.of),
                          "agreement": self.agreement(after), "bytes": after.ByteSize()})
        print(self.of.name, json.dumps(self.rows[-1]), flush=True)
        return after

    def agreement(self, graph: onnx.ModelProto) -> float:
        """Share of the validation images on which the trained module and the file predict the same."""
        images = self.of.split("validation").inputs[0]
        with torch.inference_mode():
            ours = np.concatenate([Trainable(graph)(torch.from_numpy(part)).numpy().argmax(1)
                                   for part in np.array_split(images, 16)])
        session = runtime("onnxruntime").load(graph.SerializeToString(), 1)
        theirs = accuracy.outputs(session, self.of.split("validation")).argmax(1)
        return float((ours == theirs).mean())

    def speed(self, graph: onnx.ModelProto, reference: onnx.ModelProto) -> dict[str, Any]:
        """Latency over that of the reference, interleaved; operators as the runtime fuses them."""
        timing = compare(graph.SerializeToString(), reference.SerializeToString(), self.inputs,
                         load("host-cpu").runtime, Lane(), (60,))
        counts = [dict(Counter(n.op_type for n in fused(g.SerializeToString()).nodes)) for g in (graph, reference)]
        return {"latency_ratio": timing.ratio, "spread": timing.spread, "fused": counts[0],
                "fused_equal": counts[0] == counts[1]}


def _silent(_: float) -> None:
    return None


def lost(rows: list[dict[str, Any]], recipe: str, split: str) -> float:
    """Points lost against fp32, the mean over rows of that recipe."""
    found = [row[split] for row in rows if row["recipe"] == recipe]
    return 100 * (rows[0][split] - float(np.mean(found)))


def int8(bench: Bench, operators: str, seeds: tuple[int, ...], qat: Qat, per_channel: bool = True) -> dict[str, Any]:
    step = Int8Static("minmax", "uint8", per_channel, operators)
    before = bench.post("int8_static", step)
    afters = [bench.tuned(before, str(step), qat, seed) for seed in seeds]
    return {"subject": bench.of.name, "recipe": f"{step} + {qat}",
            **{f"ptq_lost_{split}": lost(bench.rows, str(step), split) for split in ("validation", "test")},
            **{f"qat_lost_{split}": lost(bench.rows, f"{step} + {qat}", split) for split in ("validation", "test")},
            "agreement": min(row["agreement"] for row in bench.rows if "agreement" in row),
            **bench.speed(afters[0], before)}


def few_bits(bench: Bench, bits: int, qat: Qat, seeds: tuple[int, ...]) -> dict[str, Any]:
    nearest, compensated = (WeightOnly(bits, 32, True, method) for method in ("rtn", "gptq"))
    bench.post("weight_only", nearest)
    start = bench.post("weight_only", compensated)
    for seed in seeds:
        bench.tuned(start, str(compensated), qat, seed)
    return {"subject": bench.of.name, "bits": bits, **{
        f"{name}_lost_{split}": lost(bench.rows, recipe, split) for split in ("validation", "test")
        for name, recipe in (("rtn", str(nearest)), ("gptq", str(compensated)), ("qat", f"{compensated} + {qat}"))}}


def binary(bench: Bench, values: str, qat: Qat) -> dict[str, Any]:
    step = Binary(values)
    after = bench.tuned(bench.post("binary", step), str(step), qat, 0)
    names = {t.name for t in bench.float.graph.initializer} - {t.name for t in after.graph.initializer}
    dense = sum(t.ByteSize() for t in bench.float.graph.initializer if t.name in names)
    packed = after.ByteSize() - (bench.float.ByteSize() - dense)  # nodes and scales included
    return {"subject": bench.of.name, "values": values, "layers": len(names), "dense_bytes": dense,
            "packed_bytes": packed, "dense_over_packed": dense / packed,
            "lost_test": lost(bench.rows, f"{step} + {qat}", "test"), **bench.speed(after, bench.float)}


def main() -> None:
    torch.set_num_threads(1)
    separable = [Bench(subject("separable", seed)) for seed in SEEDS]
    tokens, resnet = Bench(subject("tokens")), Bench(demo())
    jobs = [
        *(partial(int8, bench, "all", (seed,), Qat(1, 5e-4)) for seed, bench in enumerate(separable)),
        *(partial(few_bits, bench, 4, Qat(1, 1e-3), (seed,)) for seed, bench in enumerate(separable)),
        partial(int8, tokens, "weighted", (0,), Qat(1, 5e-4)),
        partial(few_bits, tokens, 4, Qat(1, 1e-3), (0,)),
        partial(int8, resnet, "all", (0,), Qat(1, 3e-4)),
        *(partial(few_bits, resnet, bits, Qat(1, 5e-4), (0,)) for bits in (3, 4)),
        partial(binary, resnet, "binary", Qat(2, 2e-3)),
        partial(binary, resnet, "ternary", Qat(1, 2e-3)),
    ]
    done: list[dict[str, Any]] = []
    for job in jobs:
        done.append({"what": job.func.__name__, **job()})
        print(json.dumps(done[-1]), flush=True)
        (RESULTS / "qat.partial.json").write_text(json.dumps(done))
    (RESULTS / "qat.partial.json").unlink()
    write("qat", {"jobs": done, "rows": {b.of.name: b.rows for b in (*separable, tokens, resnet)}})


if __name__ == "__main__":
    main()
