"""Bits layer by layer against the same bits everywhere, at equal size, on the demo's subject. No training.

Every figure is of an exported file, run by ONNX Runtime. Seeds are different calibration examples, which
both the sensitivities and the error compensation see. The hypervolume is that of (size, accuracy): size as
log(size / smallest) / log(float / smallest), 0 to 1, accuracy above 0.1 (chance); its reference point is
the float file's size at an accuracy of 0.1. Fronts are chosen on validation.

    OMP_NUM_THREADS=1 python benchmarks/mixed.py
"""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from common import write
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "fashion_mnist"))
from subject import subject as demo

from pared.evaluators import accuracy
from pared.evaluators.export import export
from pared.evaluators.runtimes import runtime
from pared.hardware_profiles.load import load
from pared.spaces._layerwise import measure, rounded
from pared.spaces.passes import Scope, _onnx
from pared.spaces.passes.mixed import UNIFORM, MixedPass
from pared.spaces.passes.weight_only import WeightOnly
from pared.spaces.sensitivity import Sensitivity

SEEDS, EXAMPLES = 3, 256
AVERAGES = (2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
SCORED = 2_000  # images, the first of validation and of test
UNIFORM_BITS = (8, 4, 3, 2)
CHANCE = 0.1
SEEN: dict[bytes, dict[str, float]] = {}  # files that come out the same are scored once


def main() -> None:
    torch.set_num_threads(1)
    subject = demo()
    model, images = subject.model(), subject.split("train").inputs[0]
    graph = export(model, (images[:2],))
    points = [scored(graph, subject, kind="float")]
    correlations = []
    for seed in range(SEEDS):
        examples = images[seed * EXAMPLES : (seed + 1) * EXAMPLES]
        known = measure(model, graph, (examples,))
        correlations.append(second_order(model, graph, examples, known))
        for method in ("rtn", "gptq"):
            points += one(graph, subject, examples, known, method, seed)
    write("mixed", figures(points) | {"images": {"validation": SCORED, "test": SCORED},
        "hypervolume": __doc__, "second_order_rank_correlation": correlations, "points": points})


def one(graph: onnx.ModelProto, subject: Any, examples: Any, known: Sensitivity, method: str, seed: int) -> list:
    """All sizes by one method with one set of calibration examples."""
    scope = Scope((), _onnx.weight_shares(graph), (load("host-cpu"),), sensitivity=known)
    mixed, data, found = MixedPass(), {"input0": examples}, []
    for bits in UNIFORM_BITS:
        if method == "gptq" or seed == 0:  # rounding to nearest sees no examples
            file = UNIFORM.apply(WeightOnly(bits, 32, True, method), graph, data)
            found.append(scored(file, subject, kind="uniform", method=method, seed=seed, bits=bits))
    for average in AVERAGES:
        step = mixed.decode({"average_bits": average, "method": method, "symmetric": True}, scope)
        file = mixed.apply(step, graph, data)
        mixed.check(step, graph, file)
        found.append(scored(file, subject, kind="mixed", method=method, seed=seed, bits=average,
                            layers=dict(step.bits)))
    return found


def scored(file: onnx.ModelProto, subject: Any, **what: Any) -> dict[str, Any]:
    content = file.SerializeToString()
    if content not in SEEN:
        session = runtime("onnxruntime").load(content, 1)
        SEEN[content] = {
            name: float(accuracy.scores(session, subject.split(name).take(slice(0, SCORED)), subject).mean())
            for name in ("validation", "test")}
    print(what, len(content), SEEN[content], flush=True)
    return {**what, "size_bytes": len(content), **SEEN[content]}


def figures(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios of hypervolumes, mixed to uniform: each seed, and their mean."""
    largest = points[0]["size_bytes"]
    smallest = min(point["size_bytes"] for point in points)
    found: dict[str, Any] = {"float": points[0]}
    for method in ("rtn", "gptq"):
        uniform = [p for p in points if p.get("method") == method and p["kind"] == "uniform"]
        rows = []
        for seed in range(SEEDS):
            mine = [p for p in uniform if p["seed"] == (seed if method == "gptq" else 0)]
            mixed = [p for p in points if p.get("method") == method and p["kind"] == "mixed" and p["seed"] == seed]
            equal = [p for p in mixed if p["bits"] in UNIFORM_BITS]
            few = [p for p in mine if p["bits"] in (8, 4)]
            rows.append({"seed": seed, **{
                f"{name}, {split}": volume(ours, split, smallest, largest) / volume(theirs, split, smallest, largest)
                for split in ("validation", "test")
                for name, ours, theirs in (("whole front to 8 and 4 bits", mixed, few),
                                           ("whole front to 8, 4, 3 and 2 bits", mixed, mine),
                                           ("equal sizes, 8, 4, 3 and 2 bits", equal, mine),
                                           ("equal sizes, 8 and 4 bits", [p for p in equal if p["bits"] > 3], few))}})
        found[method] = {"ratios": rows, "mean": {
            key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "seed"}}
    return found


def volume(points: list[dict[str, Any]], split: str, smallest: int, largest: int) -> float:
    """Area between the front, chosen on validation, and the reference point."""
    front = [p for p in points if not any(
        q["size_bytes"] <= p["size_bytes"] and q["validation"] > p["validation"] for q in points)]
    front.sort(key=lambda p: p["size_bytes"])
    at = [math.log(p["size_bytes"] / smallest) / math.log(largest / smallest) for p in front] + [1.0]
    return sum((at[i + 1] - at[i]) * max(0.0, p[split] - CHANCE) for i, p in enumerate(front))


def second_order(model: Any, graph: onnx.ModelProto, examples: Any, known: Sensitivity) -> dict[str, float]:
    """Rank correlation of the measured rises with half a Taylor expansion: slopes of the outputs, squared."""
    slopes = squared_slopes(model, torch.from_numpy(examples[: known.examples]))
    weights = dict(model.named_parameters())
    guessed: dict[int, list[float]] = {8: [], 4: [], 3: [], 2: []}
    measured: dict[int, list[float]] = {8: [], 4: [], 3: [], 2: []}
    for change in rounded(model, graph):
        if change.kind == "bits":
            error = change.weights()[change.layer] - weights[change.layer].detach()
            guessed[int(change.amount)].append(float((slopes[change.layer] * error**2).sum()))
            measured[int(change.amount)].append(known.bits[change.layer][int(change.amount)])
    every = spearmanr([x for row in guessed.values() for x in row], [x for row in measured.values() for x in row])[0]
    return {"all": float(every), **{
        f"{bits} bits": float(spearmanr(guessed[bits], measured[bits])[0]) for bits in guessed}}


def squared_slopes(model: Any, x: torch.Tensor, probes: int = 8) -> dict[str, torch.Tensor]:
    """Sum over examples and outputs of squared derivatives, by random signs (Hutchinson)."""
    generator, found = torch.Generator().manual_seed(0), {}
    for _ in range(probes):
        model.zero_grad()
        outputs = model(x)
        signs = torch.randint(0, 2, outputs.shape, generator=generator) * 2.0 - 1
        (outputs * signs).sum().backward()
        for name, parameter in model.named_parameters():
            found[name] = found.get(name, 0) + parameter.grad**2 / probes
    return found


if __name__ == "__main__":
    main()
