"""Latency-aware allocation against one ratio everywhere, at equal measured latency and equal recovery.

For each criterion: the amount of `latency` is found by bisection, by measuring the exported files (no
training) interleaved with the uniformly pruned one; then both are recovered in the same way, by seed.
The criterion is chosen by validation accuracy, of the best arm of each side; test accuracy is reported.
"""

import sys
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import torch
from common import write

from pared.errors import MetricError
from pared.evaluators import accuracy
from pared.evaluators.export import export
from pared.evaluators.lane import Lane
from pared.evaluators.latency import THOROUGH, compare
from pared.evaluators.runtimes import runtime
from pared.hardware_profiles.load import load
from pared.spaces.materials import Materials, Teacher
from pared.spaces.passes._cost import prices
from pared.spaces.passes.prune import Prune, PrunePass, prunable
from pared.spaces.passes.recover import Recover, RecoverPass

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "fashion_mnist"))
from subject import subject

PROFILE = load("host-cpu")
CRITERIA, SEEDS = ("l2", "taylor"), (0, 1, 2)
RATIO, BETWEEN = 0.7, (0.75, 0.89)  # of the uniform arm; where the amount of the other is looked for
EQUAL, HALVINGS, ATTEMPTS = 0.03, 7, 20
RECOVER = Recover(epochs=3, learning_rate=3e-3, temperature=4.0, soft_weight=0.8)
STEP = PROFILE.step


class Bench:
    def __init__(self) -> None:
        self.subject = subject()
        self.materials = Materials(self.subject)
        self.untouched = self.file(self.subject.model())
        session = runtime("onnxruntime").load(self.untouched, 1)
        self.teacher = Teacher(accuracy.outputs(session, self.subject.split("train")))
        self.roots = [group.root for group in prunable(self.subject.model(), self.materials.inputs)]

    def file(self, model: torch.nn.Module) -> bytes:
        return bytes(export(model, self.materials.inputs).SerializeToString())

    def pruned(self, step: Prune) -> torch.nn.Module:
        return PrunePass().apply(step, self.subject.model(), self.materials)

    def widths(self, model: torch.nn.Module) -> list[int]:
        return [model.get_submodule(root).out_channels for root in self.roots]

    def ratio(self, file: bytes, reference: bytes) -> dict[str, Any]:
        """Interleaved, one thread; repeated until it settles, as other work on the machine allows."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                timing = compare(file, reference, self.materials.inputs, PROFILE.runtime, Lane(), THOROUGH)
            except MetricError:
                continue
            if timing.settled or attempt == ATTEMPTS:
                break
        return {"ratio": timing.ratio, "latency_ms": timing.latency_ms, "spread": timing.spread,
                "clean": timing.clean, "settled": timing.settled, "attempts": attempt}

    def equal(self, criterion: str, uniform: bytes) -> tuple[Prune, list[dict[str, Any]]]:
        """The latency-aware step whose file is nearest to the uniform one, not slower by over `EQUAL`."""
        low, high = BETWEEN
        tried: list[dict[str, Any]] = []
        steps = []
        for _ in range(HALVINGS):
            amount = round((low + high) / 2, 4)
            step = Prune((), criterion, STEP, "latency", amount, machine=PROFILE.kind, prices=prices(PROFILE))
            model = self.pruned(step)
            known = [old for old in tried if old["widths"] == self.widths(model)]
            timing = known[0] if known else self.ratio(self.file(model), uniform)
            tried.append({**timing, "amount": amount, "widths": self.widths(model)})
            steps.append(step)
            print(criterion, tried[-1], flush=True)
            low, high = (amount, high) if timing["ratio"] > 1 else (low, amount)
        near = [i for i, each in enumerate(tried) if each["ratio"] <= 1 + EQUAL]
        best = min(near, key=lambda i: (abs(tried[i]["ratio"] - 1), i))
        return steps[best], tried

    def recovered(self, step: Prune, seed: int) -> dict[str, Any]:
        started = perf_counter()
        model = RecoverPass().train(RECOVER, self.pruned(step), Materials(self.subject, seed, self.teacher))
        file = self.file(model)
        session = runtime("onnxruntime").load(file, 1)
        found = {split: float(accuracy.scores(session, self.subject.split(split), self.subject).mean())
                 for split in ("validation", "test")}
        row = {"arm": step.allocation, "criterion": step.criterion, "seed": seed, **found,
               "size_bytes": len(file), "train_s": perf_counter() - started}
        print(row, flush=True)
        return row


def main() -> None:
    torch.set_num_threads(1)
    bench = Bench()
    arms: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for criterion in CRITERIA:
        uniform = Prune((), criterion, STEP, "uniform", RATIO)
        model = bench.pruned(uniform)
        aware, tried = bench.equal(criterion, bench.file(model))
        again = bench.ratio(bench.file(bench.pruned(aware)), bench.file(model))
        arms[criterion] = {
            "uniform": {"ratio": RATIO, "widths": bench.widths(model),
                        "against_untouched": bench.ratio(bench.file(model), bench.untouched)},
            "latency": {"amount": aware.amount, "widths": bench.widths(bench.pruned(aware)),
                        "against_uniform": again, "bisection": tried}}
        rows += [bench.recovered(step, seed) for seed in SEEDS for step in (uniform, aware)]
    write("allocation", figures(arms, rows))


def figures(arms: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    def of(arm: str, criterion: str, split: str) -> list[float]:
        return [row[split] for row in rows if (row["arm"], row["criterion"]) == (arm, criterion)]

    def best(arm: str) -> str:
        return max(CRITERIA, key=lambda criterion: mean(of(arm, criterion, "validation")))

    gains = {criterion: {split: [100 * (b - a) for a, b in zip(
        of("uniform", criterion, split), of("latency", criterion, split), strict=True)]
        for split in ("validation", "test")} for criterion in CRITERIA}
    chosen = {arm: best(arm) for arm in ("uniform", "latency")}
    points = {split: 100 * (mean(of("latency", chosen["latency"], split))
                            - mean(of("uniform", chosen["uniform"], split)))
              for split in ("validation", "test")}
    return {
        "what": "points of accuracy, latency-aware minus uniform, at equal measured latency",
        "recover": str(RECOVER), "training_images": 12_000, "seeds": SEEDS, "recovery_order_by_seed": True,
        "profile": "host-cpu, not calibrated: prices of typical machines",
        "criterion_chosen_on_validation": chosen, "mean_points_best_against_best": points,
        "points_by_seed": gains,
        "mean_points": {c: {split: mean(each) for split, each in by.items()} for c, by in gains.items()},
        "arms": arms, "rows": rows,
    }


if __name__ == "__main__":
    main()
