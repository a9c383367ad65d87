"""Latency-aware allocation against one ratio everywhere, at equal measured latency and equal recovery.

The profile of the host is calibrated first, on variants of the model of random widths. For each
criterion the amount of `latency` is found by bisection, by measuring the exported files (no
training) interleaved with the uniformly pruned one; then both are recovered in the same way, by seed.
Each arm may take the criterion with its best mean validation accuracy; test accuracy is reported as well.

`allocation.py confirm` trains the steps found at the last ratio again, with fresh seeds.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from common import RESULTS, write

from pared.errors import MetricError
from pared.evaluators import accuracy
from pared.evaluators.export import export
from pared.evaluators.lane import Lane
from pared.evaluators.latency import THOROUGH, compare
from pared.evaluators.runtimes import runtime
from pared.hardware_profiles import graph
from pared.hardware_profiles.calibrate import calibrate
from pared.hardware_profiles.load import load
from pared.spaces.materials import Materials, Teacher
from pared.spaces.passes._cost import Cost, layers, prices
from pared.spaces.passes.prune import Prune, PrunePass, cut_, prunable
from pared.spaces.passes.recover import Recover, RecoverPass

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "fashion_mnist"))
from subject import subject

PROFILE = load("host-cpu")
CRITERIA = ("taylor", "l2")
SEEDS, FRESH = (0, 1, 2), (3, 4, 5)
RATIOS, AROUND = (0.7, 0.8), 0.05  # of the uniform arm; how far from its share the other is looked for
EQUAL, NEAR, HALVINGS, ATTEMPTS = 0.03, 0.015, 6, 4
VARIANTS = 12  # to calibrate the profile with
RECOVER = Recover(epochs=3, learning_rate=3e-3, temperature=4.0, soft_weight=0.8)
STEP = PROFILE.step


class Bench:
    def __init__(self) -> None:
        self.subject = subject()
        self.materials = Materials(self.subject)
        self.untouched = self.file(self.subject.model())
        session = runtime("onnxruntime").load(self.untouched, 1)
        self.teacher = Teacher(accuracy.outputs(session, self.subject.split("train")))
        self.groups = prunable(self.subject.model(), self.materials.inputs)
        self.roots = [group.root for group in self.groups]
        self.profile, self.measured = PROFILE, list[dict[str, Any]]()

    def file(self, model: torch.nn.Module) -> bytes:
        return bytes(export(model, self.materials.inputs).SerializeToString())

    def pruned(self, step: Prune) -> torch.nn.Module:
        return PrunePass().apply(step, self.subject.model(), self.materials)

    def widths(self, model: torch.nn.Module) -> list[int]:
        return [model.get_submodule(root).out_channels for root in self.roots]

    def ratio(self, file: bytes, reference: bytes) -> dict[str, Any]:
        """Interleaved, one thread; repeated until it settles, as other work on the machine allows."""
        timing, attempt = None, 0
        while timing is None or (attempt < ATTEMPTS and not timing.settled):
            attempt += 1
            with suppress(MetricError):
                timing = compare(file, reference, self.materials.inputs, PROFILE.runtime, Lane(), THOROUGH)
        return {"ratio": timing.ratio, "latency_ms": timing.latency_ms, "spread": timing.spread,
                "clean": timing.clean, "settled": timing.settled, "attempts": attempt}

    def variants(self) -> list[torch.nn.Module]:
        """Of random widths, the same ones every time."""
        dice, found = np.random.default_rng(0), []
        for _ in range(VARIANTS):
            model = self.subject.model()
            plan = {g.root: int(dice.integers(1, g.width // STEP)) * STEP for g in self.groups}
            cut_(model, plan, "l2", self.materials.inputs)
            found.append(model)
        return found

    def calibrate(self) -> None:
        """From now on prices are those of this host."""
        reference = self.file(self.pruned(Prune((), "l2", STEP, "uniform", RATIOS[0])))
        files = []
        for model in self.variants():
            files.append(self.file(model))
            self.measured.append({"widths": self.widths(model), **self.ratio(files[-1], reference)})
            print(self.measured[-1], flush=True)
        self.fit(files)

    def fit(self, files: list[bytes]) -> None:
        """Ratios, at one level, so that a drift of the machine cancels out."""
        level_ms = median(row["latency_ms"] / row["ratio"] for row in self.measured)
        self.profile = calibrate(PROFILE, [(graph.read(file), row["ratio"] * level_ms)
                                           for file, row in zip(files, self.measured, strict=True)])

    def share(self, step: Prune) -> float:
        """Of the cost of what can get narrower, predicted, that the step takes away."""
        widths = {group.root: group.width for group in self.groups}
        cost = Cost(layers(self.subject.model(), widths, self.materials.inputs), widths, PROFILE.kind,
                    prices(self.profile))
        return 1 - cost(dict(zip(self.roots, self.widths(self.pruned(step)), strict=True))) / cost({})

    def equal(self, criterion: str, even: Prune) -> tuple[Prune, list[dict[str, Any]]]:
        """The latency-aware step whose file is nearest to the uniform one, not slower by over `EQUAL`."""
        uniform, middle = self.file(self.pruned(even)), self.share(even)
        low, high = middle - AROUND, middle + AROUND
        tried: list[dict[str, Any]] = []
        steps = []
        for _ in range(HALVINGS):
            amount = round((low + high) / 2, 4)
            step = Prune((), criterion, STEP, "latency", amount, machine=PROFILE.kind,
                         prices=prices(self.profile))
            model = self.pruned(step)
            known = [old for old in tried if old["widths"] == self.widths(model)]
            timing = known[0] if known else self.ratio(self.file(model), uniform)
            tried.append({**timing, "amount": amount, "widths": self.widths(model)})
            steps.append(step)
            print(criterion, tried[-1], flush=True)
            low, high = (amount, high) if timing["ratio"] > 1 else (low, amount)
            if abs(timing["ratio"] - 1) <= NEAR:
                break
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
    bench.calibrate()
    points = {}
    for ratio in RATIOS:
        arms, steps = equal_arms(bench, ratio)
        points[f"uniform {ratio:.0%}"] = point(arms, [bench.recovered(s, seed) for seed in SEEDS for s in steps])
    write("allocation", figures(bench, points))


def confirm() -> None:
    """The steps that were measured equally fast at the last ratio, under fresh seeds."""
    found = json.loads((RESULTS / "allocation.json").read_text())
    at = found["operating_points"][f"uniform {RATIOS[-1]:.0%}"]
    criteria, bench = at["criterion_chosen_on_validation"], Bench()
    bench.measured = found["calibration"]["variants"]
    bench.fit([bench.file(model) for model in bench.variants()])
    known = at["arms"][criteria["latency"]]["latency"]
    steps = (Prune((), criteria["uniform"], STEP, "uniform", RATIOS[-1]),
             Prune((), criteria["latency"], STEP, "latency", known["amount"], machine=PROFILE.kind,
                   prices=prices(bench.profile)))
    models = [bench.pruned(step) for step in steps]
    assert bench.widths(models[1]) == known["widths"]
    ratio = bench.ratio(*(bench.file(model) for model in reversed(models)))
    rows = [bench.recovered(step, seed) for seed in FRESH for step in steps]
    gains = {split: [100 * (aware[split] - even[split]) for even, aware in zip(rows[::2], rows[1::2], strict=True)]
             for split in ("validation", "test")}
    write("allocation_confirmed", {
        "what": f"the steps of allocation.json at {RATIOS[-1]:.0%}, fixed before these seeds were run",
        "against_uniform": ratio, "mean": {split: mean(each) for split, each in gains.items()},
        "by_seed": gains, "seeds": FRESH, "rows": rows})


def equal_arms(bench: Bench, ratio: float) -> tuple[dict[str, Any], list[Prune]]:
    """What was measured of the untrained files, by criterion, and the steps of both arms."""
    arms: dict[str, Any] = {}
    steps: list[Prune] = []
    for criterion in CRITERIA:
        uniform = Prune((), criterion, STEP, "uniform", ratio)
        file = bench.file(bench.pruned(uniform))
        aware, tried = bench.equal(criterion, uniform)
        steps += [uniform, aware]
        models = [bench.pruned(step) for step in (uniform, aware)]
        arms[criterion] = {
            "uniform": {"ratio": ratio, "widths": bench.widths(models[0]),
                        "against_untouched": bench.ratio(file, bench.untouched)},
            "latency": {"amount": aware.amount, "widths": bench.widths(models[1]),
                        "against_uniform": bench.ratio(bench.file(models[1]), file), "bisection": tried}}
    return arms, steps


def point(arms: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One latency: what each arm gains over the other under one criterion, and with its own best one."""
    def of(arm: str, criterion: str, split: str) -> list[float]:
        return [row[split] for row in rows if (row["arm"], row["criterion"]) == (arm, criterion)]

    def gains(even: str, aware: str) -> dict[str, Any]:
        by_seed = {split: [100 * (b - a) for a, b in zip(
            of("uniform", even, split), of("latency", aware, split), strict=True)]
            for split in ("validation", "test")}
        return {"mean": {split: mean(each) for split, each in by_seed.items()}, "by_seed": by_seed}

    best = {arm: max(CRITERIA, key=lambda criterion: mean(of(arm, criterion, "validation")))
            for arm in ("uniform", "latency")}
    return {"points_by_criterion": {criterion: gains(criterion, criterion) for criterion in CRITERIA},
            "criterion_chosen_on_validation": best,
            "points_best_against_best": gains(best["uniform"], best["latency"]), "arms": arms, "rows": rows}


def figures(bench: Bench, points: dict[str, Any]) -> dict[str, Any]:
    fit = bench.profile.calibration["fp32"]
    return {
        "what": "points of accuracy, latency-aware minus uniform, at equal measured latency",
        "recover": str(RECOVER), "training_images": 12_000, "seeds": SEEDS,
        "calibration": {"left_out_error": fit.loo_mape, "form": fit.form, "variants": bench.measured},
        "operating_points": points,
    }


if __name__ == "__main__":
    confirm() if sys.argv[1:] == ["confirm"] else main()
