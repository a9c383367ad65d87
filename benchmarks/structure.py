"""Heads, whole layers and low-rank factors: accuracy before and after a short recovery, and measured latency.

A transformer made of torch's own encoder on spoken digits (`../shared/data/fsdd_logmel.npz`), and with `demo`
the demo's ResNet-8 without its one removable block. Nothing is chosen here: the settings of the passes are
their usual ones, the rate of recovery that of the training. What is done already is kept in build/, so a run
can be taken up: `structure.py SEEDS [demo]`, each seed about five minutes on one quiet thread.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from common import write
from torch import Tensor, nn

import pared
from pared.errors import MetricError
from pared.evaluators import accuracy
from pared.evaluators.export import export
from pared.evaluators.lane import Lane
from pared.evaluators.latency import THOROUGH, compare
from pared.evaluators.runtimes import runtime
from pared.hardware_profiles import graph
from pared.hardware_profiles.load import load
from pared.spaces.materials import Materials, Teacher
from pared.spaces.passes import MODULE
from pared.spaces.passes.depth import Depth, ranked
from pared.spaces.passes.heads import Heads
from pared.spaces.passes.low_rank import LowRank
from pared.spaces.passes.recover import Recover, RecoverPass
from pared.spaces.subject import Subject, example_inputs

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples" / "fashion_mnist"))
from subject import subject as demo

DIGITS = ROOT.parent / "shared" / "data" / "fsdd_logmel.npz"
DONE = ROOT / "build" / "structure.jsonl"
PROFILE, ATTEMPTS = load("host-cpu"), 4
EPOCHS, BATCH, RATE, HELD = 8, 64, 1e-3, 300
RECOVER = Recover(epochs=3, learning_rate=RATE, temperature=4.0, soft_weight=0.8)
DEMO_IMAGES = 6_000
DEMO_RECOVER = Recover(epochs=3, learning_rate=3e-3, temperature=4.0, soft_weight=0.8)


class Speech(nn.Module):
    """Four pre-norm layers of width 128 with eight heads over 16 tokens of four frames each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(128, 128), nn.Parameter(0.02 * torch.randn(16, 128))
        layer = nn.TransformerEncoderLayer(128, 8, 256, 0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, nn.LayerNorm(128), enable_nested_tensor=False)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 32 bands, 64 frames) -> (batch, 10)
        tokens = x.reshape(-1, 32, 16, 4).permute(0, 2, 1, 3).reshape(-1, 16, 128)
        return self.head(self.encoder(self.embed(tokens) + self.place).mean(1))


def digits(seed: int) -> pared.Classification:
    """The official test set; validation is cut from the training set, alike for all seeds."""
    with np.load(DIGITS) as data:
        found = {part: (data[f"x_{part}"].astype(np.float32) / 127.5 - 1, data[f"y_{part}"].astype(np.int64))
                 for part in ("train", "test")}
    order = np.random.default_rng(0).permutation(len(found["train"][1]))
    train, held = (tuple(array[rows] for array in found["train"]) for rows in (order[HELD:], order[:HELD]))
    path = DONE.with_name(f"structure-{seed}.pt")
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        torch.save(trained(*train, seed).state_dict(), path)
    model = Speech().eval()
    model.load_state_dict(torch.load(path))
    return pared.Classification(model, train, held, found["test"], name="spoken digits")


def trained(x: np.ndarray, y: np.ndarray, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model, images, labels = Speech(), torch.from_numpy(x), torch.from_numpy(y)
    steps = len(x) // BATCH
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * steps)
    for epoch in range(EPOCHS):
        model.train()
        for rows in torch.randperm(len(x))[: steps * BATCH].split(BATCH):
            shifted = images[rows].roll(int(torch.randint(-6, 7, ())), 2)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(shifted), labels[rows], label_smoothing=0.05).backward()
            optimiser.step()
            schedule.step()
        print(f"seed {seed}: epoch {epoch + 1} of {EPOCHS}", flush=True)
    return model.eval()


def fewer(subject: Subject) -> pared.Classification:
    """Trained on part of the images, which keeps this short."""
    train, *rest = (subject.split(name) for name in ("train", "validation", "test"))
    data = [(part.inputs[0], part.targets) for part in (train.take(slice(0, DEMO_IMAGES)), *rest)]
    return pared.Classification(subject.model, *data, name=subject.name)


def steps(subject: Subject) -> dict[str, tuple[str, Any]]:
    blocks = ranked(subject.model(), example_inputs(subject), (), subject)
    return {"heads 50 %": ("heads", Heads(0.5)), "depth -1 of 4": ("depth", Depth(blocks[:1])),
            "depth -2 of 4": ("depth", Depth(blocks[:2])), "low rank 50 %": ("low_rank", LowRank(0.5, PROFILE.step))}


def figures(model: nn.Module, subject: Subject) -> tuple[bytes, dict[str, Any]]:
    file = bytes(export(model, example_inputs(subject)).SerializeToString())
    session = runtime("onnxruntime").load(file, 1)
    scores = {name: float(accuracy.scores(session, subject.split(name), subject).mean())
              for name in ("validation", "test")}
    return file, {**scores, "size_bytes": len(file), "macs": sum(kernel.macs for kernel in graph.read(file)),
                  "weights": sum(p.numel() for p in model.parameters())}


def latency(file: bytes, untouched: bytes, subject: Subject) -> dict[str, Any]:
    """Interleaved with the untouched file; the attempt that other work on the machine disturbed least."""
    timings = []
    for _ in range(ATTEMPTS):
        with suppress(MetricError):
            timings.append(compare(file, untouched, example_inputs(subject), PROFILE.runtime, Lane(), THOROUGH))
        if timings and timings[-1].settled:
            break
    if not timings:
        return {}
    timing = min(timings, key=lambda each: (not each.settled, each.spread))
    return {"ratio": timing.ratio, "latency_ms": timing.latency_ms, "untouched_ms": timing.reference_ms,
            "spread": timing.spread, "clean": timing.clean, "settled": timing.settled}


def rows(subject: Subject, plan: dict[str, tuple[str, Any]], recover: Recover, seed: int) -> list[dict[str, Any]]:
    untouched, base = figures(subject.model(), subject)
    session = runtime("onnxruntime").load(untouched, 1)
    teacher = Teacher(accuracy.outputs(session, subject.split("train")))
    materials = Materials(subject, seed, teacher)
    found = [{"arm": "untouched", "subject": subject.name, "seed": seed, "before": base}]
    known = {(row["subject"], row["arm"], row["seed"]): row for row in done()}
    for arm, (name, step) in {"untouched, trained on": ("", None), **plan}.items():
        if row := known.get((subject.name, arm, seed)):
            found.append(row)
            continue
        model = MODULE[name].apply(step, subject.model(), materials) if name else subject.model()
        _, before = figures(model, subject)
        file, after = figures(RecoverPass().train(recover, model, materials), subject)
        found.append({"arm": arm, "subject": subject.name, "seed": seed, "step": str(step), "before": before,
                      "recovered": after, "latency": latency(file, untouched, subject)})
        print(found[-1], flush=True)
        with DONE.open("a") as file_of_rows:
            file_of_rows.write(json.dumps(found[-1]) + "\n")
    return found


def done() -> list[dict[str, Any]]:
    return [json.loads(line) for line in DONE.read_text().splitlines()] if DONE.exists() else []


def means(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over the seeds, of each arm."""
    arms = dict.fromkeys((row["subject"], row["arm"]) for row in found)
    table = []
    for subject, arm in arms:
        mine = [row for row in found if (row["subject"], row["arm"]) == (subject, arm)]
        last = [row.get("recovered", row["before"]) for row in mine]
        ratios = [row["latency"]["ratio"] for row in mine if "ratio" in row.get("latency", {})]
        table.append({"subject": subject, "arm": arm, "seeds": len(mine),
                      "test_before": mean(row["before"]["test"] for row in mine),
                      "test": mean(row["test"] for row in last),
                      "validation": mean(row["validation"] for row in last),
                      "weights": mean(row["weights"] for row in last), "macs": mean(row["macs"] for row in last),
                      "latency_ratio": mean(ratios) if ratios else None})
    return table


def main() -> None:
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    if DIGITS.exists():
        for seed in range(int(sys.argv[1])):
            spoken = digits(seed)
            found += rows(spoken, steps(spoken), RECOVER, seed)
    if "demo" in sys.argv:
        fashion = fewer(demo())
        found += rows(fashion, {"depth -1 of 1": ("depth", Depth(("blocks.0",)))}, DEMO_RECOVER, 0)
    table = means(found)
    write("structure", {
        "note": "one thread, on a busy machine (see `settled` and `clean` of each latency); each seed trains its "
                "own transformer and recovers for 3 epochs",
        "recover": str(RECOVER),
        **({"demo_recover": f"{DEMO_RECOVER}, {DEMO_IMAGES} images, one seed"} if "demo" in sys.argv else {}),
        "means": {f"{row.pop('subject')}: {row.pop('arm')}": row for row in table}, "runs": found})


if __name__ == "__main__":
    main()
