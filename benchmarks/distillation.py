"""What the teacher adds to recovery at 70 % narrower: soft targets, features, attention against labels.

`distillation.py sweep` chooses settings on part of the training images, one seed; `distillation.py final`
compares the chosen ones over three seeds, all at the rate that is best for labels alone. All choices are
made on the validation split. Runs that are in the results already are not run again.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from common import RESULTS, write

import pared
from pared.evaluators.subjects.find import find
from pared.spaces.materials import Materials, Teacher
from pared.spaces.passes.prune import Prune, PrunePass
from pared.spaces.passes.recover import Recover, RecoverPass
from pared.spaces.subject import Subject, example_inputs
from pared.spaces.taps import taps
from pared.spaces.teaching import ATTENTION, FEATURES, remembered

SWEEP_LOG, FINAL_LOG = (RESULTS / f"distillation_{name}.jsonl" for name in ("sweep", "final"))
DEMO = Path(__file__).parent.parent / "examples" / "fashion_mnist" / "subject.py"
NARROW = Prune((), "l2", 8, "uniform", 0.7)
SWEEP_IMAGES, SWEEP_EPOCHS, SWEEP_RATE, RATES = 6_000, 4, 2e-3, (1e-3, 2e-3, 5e-3, 1e-2)
EPOCHS, SEEDS = 3, (0, 1, 2)
SOFT = ((2.0, 0.5), (2.0, 0.9), (4.0, 0.5), (4.0, 0.9), (4.0, 1.0), (8.0, 0.9))
TRANSFER = ((FEATURES, 0.5), (FEATURES, 2.0), (ATTENTION, 1.0), (ATTENTION, 5.0))


class Bench:
    """The narrowed demo subject and its teacher, with `images` training images; `log` keeps the runs."""

    def __init__(self, log: Path, images: int | None = None) -> None:
        self.log = log
        self.known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        full: Subject = find(f"{DEMO}:subject", Path.cwd())
        train, splits = full.split("train").take(slice(0, images)), ("validation", "test")
        data = [(part.inputs[0], part.targets) for part in (train, *map(full.split, splits))]
        self.subject = pared.Classification(full.model, *data)
        paths = taps(full.model(), example_inputs(full))
        self.teacher: Teacher = remembered(full.model(), train, paths, (FEATURES, ATTENTION))
        self.pruned = PrunePass().apply(NARROW, full.model(), Materials(self.subject))

    def run(self, arm: str, step: Recover, seed: int) -> dict[str, Any]:
        asked = {"arm": arm, "seed": seed, **asdict(step)}
        for run in self.known:
            if run.items() >= asked.items():
                return run
        model = RecoverPass().train(step, self.pruned, Materials(self.subject, seed, self.teacher))
        found = {**asked, **self.scores(model)}
        with self.log.open("a") as log:
            print(json.dumps(found), file=log)
        return found

    def scores(self, model: torch.nn.Module) -> dict[str, float]:
        found = {}
        for name in ("validation", "test"):
            split = self.subject.split(name)
            with torch.inference_mode():
                outputs = torch.cat([model(x) for x in torch.from_numpy(split.inputs[0]).split(500)]).numpy()
            found[name] = float(self.subject.score(outputs, split.targets).mean())
        return found


def sweep() -> None:
    """What to teach at one rate, then the rate of plain recovery, which every arm of the final keeps."""
    bench, runs = Bench(SWEEP_LOG, SWEEP_IMAGES), []

    def best(arm: str, steps: list[Recover]) -> Recover:
        tried = [(bench.run(arm, step, 0), step) for step in steps]
        runs.extend(run for run, _ in tried)
        return max(tried, key=lambda pair: pair[0]["validation"])[1]

    plain = Recover(SWEEP_EPOCHS, SWEEP_RATE, 4.0, 0.0)
    soft = best("soft", [replace(plain, temperature=t, soft_weight=w) for t, w in SOFT])
    transfer = {kind: best(kind, [replace(plain, transfer=kind, transfer_weight=w) for k, w in TRANSFER
                                  if k == kind]) for kind in (FEATURES, ATTENTION)}
    joint = {f"soft+{kind}": replace(soft, transfer=kind, transfer_weight=step.transfer_weight)
             for kind, step in transfer.items()}
    for name, step in joint.items():
        best(name, [step])
    rate = best("labels", [replace(plain, learning_rate=rate) for rate in RATES]).learning_rate
    arms = {name: replace(step, epochs=EPOCHS, learning_rate=rate)
            for name, step in {"labels": plain, "soft": soft, **transfer, **joint}.items()}
    write("distillation_sweep", {"images": SWEEP_IMAGES, "epochs": SWEEP_EPOCHS, "seed": 0,
                                 "arms": {name: asdict(step) for name, step in arms.items()}, "runs": runs})


def final() -> None:
    """Every chosen arm on all 12,000 images; the best is the one with the best mean on validation."""
    chosen = json.loads((RESULTS / "distillation_sweep.json").read_text())["arms"]
    bench = Bench(FINAL_LOG)
    runs = [bench.run(arm, Recover(**step), seed) for seed in SEEDS for arm, step in chosen.items()]
    means = {arm: {split: mean(r[split] for r in runs if r["arm"] == arm) for split in ("validation", "test")}
             for arm in chosen}
    best = max((arm for arm in chosen if arm != "labels"), key=lambda arm: means[arm]["validation"])
    gains = {split: [got[split] - plain[split] for plain, got in
                     zip(*([r for r in runs if r["arm"] == arm] for arm in ("labels", best)), strict=True)]
             for split in ("validation", "test")}
    write("distillation", {
        "subject": "ResNet-8 64/128/128 on Fashion-MNIST, 12,000 training images", "pruned": str(NARROW),
        "epochs": EPOCHS, "untouched": bench.scores(bench.subject.model()),
        "pruned_untrained": bench.scores(bench.pruned), "best": best, "arms": chosen, "means": means,
        "gain_points": {name: {"mean": 100 * mean(g), "sd": 100 * stdev(g), "seeds": [100 * x for x in g]}
                        for name, g in gains.items()},
        "runs": runs})


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"sweep": sweep, "final": final}[sys.argv[1]]()
