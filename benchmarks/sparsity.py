"""Sparse weights on the demo's subject: size of the packed file, accuracy after recovery, latency.

`python benchmarks/sparsity.py`: about 10 minutes on one thread. Recovery sees the first 4,000 training
images for two epochs. Accuracies, sizes and latencies are of exported files.
"""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import onnx
import torch
from common import write
from thread_time import ratio
from torch import nn
from torch.nn.utils import parametrize

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples" / "fashion_mnist"))
from subject import subject as demo

from pared.evaluators import accuracy
from pared.evaluators.export import export
from pared.evaluators.runtimes import runtime
from pared.spaces.materials import Materials, Teacher
from pared.spaces.passes import FILE
from pared.spaces.passes.int8_static import Int8Static
from pared.spaces.passes.pack_zeros import PackZeros
from pared.spaces.passes.recover import Recover, RecoverPass
from pared.spaces.passes.sparsify import Mask, Sparsify, SparsifyPass
from pared.spaces.subject import Subject, example_inputs

IMAGES, RECOVER = 4_000, Recover(2, 3e-3, 4.0, 0.8)
INT8 = Int8Static("minmax", "uint8", True, "all")
RUNS = [*((Sparsify("unstructured", 0.8, gradual), "uniform", (0, 1, 2)) for gradual in (False, True)),
        *((Sparsify("unstructured", 0.9, gradual), "uniform", (0,)) for gradual in (False, True)),
        (Sparsify("unstructured", 0.9, False), "one threshold", (0,)),
        (Sparsify("2:4", 0.5, False), "uniform", (0,))]


class Fewer:
    """The subject with fewer training images."""

    def __init__(self, of: Subject) -> None:
        self._of = of

    def split(self, name: str) -> Any:
        whole = self._of.split(name)
        return whole.take(slice(0, IMAGES)) if name == "train" else whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


def scores(graph: onnx.ModelProto, of: Subject) -> dict[str, float]:
    session = runtime("onnxruntime").load(graph.SerializeToString(), 1)
    return {split: float(accuracy.scores(session, of.split(split), of).mean()) for split in ("validation", "test")}


def sparse(step: Sparsify, allocation: str, of: Subject) -> nn.Module:
    """By the pass, or with one threshold for the weights of all layers that it chose."""
    model = SparsifyPass().apply(step, of.model(), Materials(of))
    if allocation == "uniform":
        return model
    paths = [path for path, module in model.named_modules() if parametrize.is_parametrized(module)]
    model = copy.deepcopy(of.model())
    sizes = torch.cat([model.get_submodule(path).weight.detach().abs().ravel() for path in paths])
    threshold = sizes.kthvalue(round(step.amount * len(sizes))).values
    for path in paths:
        layer = model.get_submodule(path)
        share = float((layer.weight.detach().abs() <= threshold).double().mean())
        parametrize.register_parametrization(layer, "weight", Mask(replace(step, amount=share), layer))
    return model


def packed(graph: onnx.ModelProto) -> onnx.ModelProto:
    after = FILE["pack_zeros"].apply(PackZeros(), graph, {})
    FILE["pack_zeros"].check(PackZeros(), graph, after)
    return after


def run(step: Sparsify, allocation: str, seed: int, of: Subject, teacher: Teacher,
        dense: onnx.ModelProto) -> dict[str, Any]:
    inputs, model = example_inputs(of), sparse(step, allocation, of)
    before = export(model, inputs)
    after = export(RecoverPass().train(RECOVER, model, Materials(of, seed, teacher)), inputs)
    small = packed(after)
    row: dict[str, Any] = {
        "recipe": str(step), "allocation": allocation, "seed": seed, "untrained": scores(before, of)["validation"],
        **scores(small, of), "bytes": small.ByteSize(), "bytes_untrained": packed(before).ByteSize(),
        "size_ratio": small.ByteSize() / dense.ByteSize()}
    if seed == 0 and allocation == "uniform":
        row |= ratio(small, after, inputs)
        int8 = FILE["int8_static"].apply(INT8, after, {"input0": of.split("calibration").inputs[0]})
        row["int8"] = {**scores(packed(int8), of), "bytes": packed(int8).ByteSize(), "bytes_dense": int8.ByteSize(),
                       "size_ratio": packed(int8).ByteSize() / dense.ByteSize(), **ratio(packed(int8), int8, inputs)}
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    torch.set_num_threads(1)
    of: Any = Fewer(demo())
    dense = export(of.model(), example_inputs(of))
    session = runtime("onnxruntime").load(dense.SerializeToString(), 1)
    teacher = Teacher(accuracy.outputs(session, of.split("train")))
    rows = [run(step, allocation, seed, of, teacher, dense) for step, allocation, seeds in RUNS for seed in seeds]
    means = [{"recipe": str(step), "allocation": allocation, "seeds": len(seeds),
              **{key: mean(row[key] for row in rows if (row["recipe"], row["allocation"]) == (str(step), allocation))
                 for key in ("validation", "test", "size_ratio")}} for step, allocation, seeds in RUNS]
    write("sparsity", {"subject": of.name, "training_images": IMAGES, "recovery": str(RECOVER),
                       "dense": {**scores(dense, of), "bytes": dense.ByteSize()},
                       "summary": {f"{m['recipe']}, {m['allocation']}": m for m in means}, "rows": rows})


if __name__ == "__main__":
    main()
