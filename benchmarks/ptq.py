"""Post-training quantization in 8 bits: accuracy lost and latency, by range method and by engine.

`python benchmarks/ptq.py`: about ten minutes on one thread, trains nothing but the two small nets where they
are not in build/ yet. A subject's calibration data are 256 training images. Accuracies are of exported files.
"""

import json
import sys
from collections import Counter
from time import perf_counter
from typing import Any

import onnx
import torch
from common import write
from small_nets import ROOT, subject
from thread_time import ratio

from pared.errors import CandidateError
from pared.evaluators import accuracy
from pared.evaluators.export import export
from pared.evaluators.runtimes import runtime
from pared.hardware_profiles.optimised import fused
from pared.spaces.passes import FILE
from pared.spaces.passes.int8_nncf import RANGES, Int8Nncf
from pared.spaces.passes.int8_static import METHODS, Int8Static
from pared.spaces.subject import Subject, example_inputs

sys.path.insert(0, str(ROOT / "examples" / "fashion_mnist"))
from subject import subject as demo


def recipes(products: bool) -> list[tuple[str, Any]]:
    """Technique and step; `products`: matrix products hold the weights."""
    operators = "weighted" if products else "all"
    static = [*(Int8Static(method, "uint8", True, operators) for method in METHODS),
              *(Int8Static(method, "uint8", False, operators) for method in ("minmax", "mse"))]
    nncf = [Int8Nncf("performance", "uint8", "minmax", True),
            *(Int8Nncf("mixed", "uint8", ranges, bias, smooth) for ranges in RANGES for bias in (True, False)
              for smooth in ((True, False) if products else (False,)))]
    return [*(("int8_static", step) for step in static), *(("int8_nncf", step) for step in nncf)]


def measured(graph: onnx.ModelProto, reference: onnx.ModelProto, of: Subject) -> dict[str, Any]:
    session = runtime("onnxruntime").load(graph.SerializeToString(), 1)
    scores = {split: accuracy.scores(session, of.split(split), of) for split in ("validation", "test")}
    kernels = Counter(node.op_type for node in fused(graph.SerializeToString()).nodes)
    return {**{split: float(found.mean()) for split, found in scores.items()}, "bytes": graph.ByteSize(),
            **ratio(graph, reference, example_inputs(of)), "fused": dict(kernels)}


def rows(of: Subject) -> list[dict[str, Any]]:
    graph = export(of.model(), example_inputs(of))
    data = {"input0": of.split("calibration").inputs[0]}
    found: list[dict[str, Any]] = [{"subject": of.name, "recipe": "fp32", **measured(graph, graph, of)}]
    for name, step in recipes("tokens" in of.name):
        started = perf_counter()
        row: dict[str, Any] = {"subject": of.name, "recipe": str(step)}
        try:
            after = FILE[name].apply(step, graph, data)
            FILE[name].check(step, graph, after)
            took = perf_counter() - started
            row |= {"seconds": took, **measured(after, graph, of)}
            row |= {f"lost_{split}": 100 * (found[0][split] - row[split]) for split in ("validation", "test")}
        except CandidateError as error:
            row["refused"] = str(error)
        found.append(row)
        print(json.dumps({key: value for key, value in row.items() if key != "fused"}), flush=True)
    return found


def summary(found: list[dict[str, Any]]) -> dict[str, str]:
    """Points lost on validation / test, and latency over fp32's."""
    return {f"{row['subject']}: {row['recipe']}":
            f"{row['lost_validation']:.2f} / {row['lost_test']:.2f}, x{row['latency_ratio']:.2f}"
            for row in found if "lost_test" in row}


def main() -> None:
    torch.set_num_threads(1)
    found = [row for of in (demo(), subject("separable"), subject("tokens")) for row in rows(of)]
    write("ptq", {"lost": "points of accuracy, validation / test", "summary": summary(found), "rows": found})


if __name__ == "__main__":
    main()
