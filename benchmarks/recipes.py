"""An exhaustive, measured table over pruning x distillation x quantization: `results/recipes.csv`.

Every recipe of a grid goes through the trial function that a search uses: 27 structures, 8 ways to recover
each, 3 number formats, judged after 1, 3 and 9 epochs. Accuracy is that of the exported file on 4,000
validation images; latency is measured on the host, interleaved with the untouched model's; three more
devices are predicted or compiled.

`recipes.py run [WORKERS]` goes on where it stopped (trainings and rows are in `build/recipes`) and takes an hour on
two cores; `recipes.py table` writes the CSV. A second seed: `SEED=1 recipes.py run`.
"""

import csv
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache
from itertools import product
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from common import RESULTS, ROOT
from torch import Tensor, nn

import pared
from pared.evaluators.devices import Reading, device
from pared.hardware_profiles.load import load
from pared.search.prepare import Prepared, prepare, teach
from pared.search.records import Job, Untouched
from pared.search.trial import Bench, run
from pared.spaces.passes.int8_static import Int8Static
from pared.spaces.passes.prune import Prune
from pared.spaces.passes.recover import Recover
from pared.spaces.passes.weight_only import WeightOnly
from pared.spaces.recipe import Recipe

sys.path.insert(0, str(ROOT / "examples" / "fashion_mnist"))
from data import load as demo_data
from model import Block

SEED = int(os.environ.get("SEED", "0"))
BUILD = ROOT / "build" / "recipes"
LOG, TABLE = BUILD / "recipes.jsonl", RESULTS / "recipes.csv"
PROFILES = ("host-cpu", "rpi4-ort-cpu", "t4-ort-cuda", "ethos-u55-128")
TRAIN = 2_500  # images: an epoch takes about a second
RATIOS, RUNGS = (0.0, 0.4, 0.7), (1, 3, 9)
RATES, SOFT, TRANSFER = (1e-3, 4e-3), (0.0, 0.8), ("none", "features")
Row = tuple[dict[str, Any], Recipe]
FORMATS = ("float", "int8", "int4 weights")


class Net(nn.Module):
    """The demo's network, a quarter of its work: it halves the resolution at once, and is half as wide."""

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Sequential(
            nn.Conv2d(1, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.blocks = nn.Sequential(Block(first, first, 1), Block(first, second, 2), Block(second, third, 2))
        self.head = nn.Linear(third, 10)

    def forward(self, images: Tensor) -> Tensor:  # (batch, 1, 28, 28) -> (batch, classes)
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


def subject() -> pared.Classification:
    """Trained on all 16,000 images; recovery sees the first TRAIN of them."""
    data = demo_data()
    images, labels = data["train"]
    return pared.Classification(_trained, (images[:TRAIN], labels[:TRAIN]), data["validation"], data["test"],
                                name="ResNet-8, stride 2, on Fashion-MNIST")


def _trained() -> nn.Module:
    model = Net()
    if not (stored := BUILD / "net.pt").exists():
        _train_(model)
        BUILD.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), stored)
    model.load_state_dict(torch.load(stored, weights_only=True))
    return model


def _train_(model: nn.Module, epochs: int = 12) -> None:
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, demo_data()["train"])
    optimiser = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=1e-2)
    batches = len(images) // 128
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: batches * 128].split(128):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimiser.step()
            schedule.step()


@cache
def bench() -> Bench:
    """What trials share, made once a process; the costly part comes from the cache."""
    torch.set_num_threads(1)
    found, profiles = subject(), tuple(load(name) for name in PROFILES)
    store, kept = str(BUILD / "files"), str(BUILD / "cache")
    figures = BUILD / "untouched.json"
    known = Untouched(**json.loads(figures.read_text())) if figures.exists() else None
    ready: Prepared = prepare(found, profiles, store, known, 1, (), (), _measured, _quiet)
    figures.write_text(json.dumps(asdict(ready.untouched)))
    teacher = teach(found, ready.content, kept, ready.scope.taps, ("features",), _measured, _quiet)
    return Bench(found, profiles, store, 1, SEED, ready.untouched.sha256, ready.scores,
                 ready.untouched.latency_ms, {}, teacher, (), {}, ready.content, kept)


def grid() -> Iterator[list[Row]]:
    """Settings and recipe of every row, those together that share a training."""
    yield [(_settings((0.0,) * 3, 0, 0.0, 0.0, "none", precision), Recipe(_format(precision)))
           for precision in FORMATS]
    for ratios, rate, soft, transfer in product(product(RATIOS, repeat=3), RATES, SOFT, TRANSFER):
        yield [(_settings(ratios, epochs, rate, soft, transfer, precision),
                Recipe((*_cut(ratios), _recovery(epochs, rate, soft, transfer), *_format(precision))))
               for epochs, precision in product(reversed(RUNGS), FORMATS)]


def score_all(rows: list[Row]) -> list[dict[str, Any]]:
    return [score(row) for row in rows]


def score(row: Row) -> dict[str, Any]:
    """One row; only the longest training of a structure is measured, as weights do not change a latency."""
    settings, recipe = row
    shared, longest = bench(), settings["epochs"] in (0, RUNGS[-1])
    outcome = run(Job(0, recipe.json), shared, _measured if longest else _unmeasured, _quiet)
    figures = {name: metric["value"] for name, metric in outcome.metrics.items()
               if longest or name in ("accuracy", "size_bytes")}
    spread = outcome.metrics.get("latency_ms@host-cpu", {}).get("spread")
    return {**settings, "seed": SEED, "state": outcome.state, "reason": outcome.reason, "sha256": outcome.sha256,
            "train_s": outcome.train_s, "spread": spread if longest else None, "absent": sorted(outcome.absent),
            **figures}


def go(workers: int) -> None:
    done = {_name(row) for row in logged()}
    left = [rows for rows in grid() if any((*each[0].values(), SEED) not in done for each in rows)]
    bench()  # trains the net and remembers what it says, before there are several
    began = time.time()
    with ProcessPoolExecutor(workers) as crew, LOG.open("a") as log:
        for n, rows in enumerate(crew.map(score_all, left), 1):
            log.writelines(json.dumps(row) + "\n" for row in rows)
            log.flush()
            print(f"\r{n} of {len(left)}, {(time.time() - began) / n * (len(left) - n):.0f} s left", end="",
                  flush=True)


def table() -> None:
    rows = logged()
    names = list(dict.fromkeys(name for row in rows for name in row))
    with TABLE.open("w", newline="") as file:
        out = csv.DictWriter(file, names)
        out.writeheader()
        out.writerows({name: _short(value) for name, value in row.items()} for row in rows)


def logged() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []


def _settings(ratios: tuple[float, ...], *rest: Any) -> dict[str, Any]:
    names = ("ratio1", "ratio2", "ratio3", "epochs", "learning_rate", "soft_weight", "transfer", "precision")
    return dict(zip(names, (*ratios, *rest), strict=True))


def _name(row: dict[str, Any]) -> tuple[Any, ...]:
    return (*(row[name] for name in _settings((0.0,) * 3, 0, 0.0, 0.0, "none", "float")), row["seed"])


def _cut(ratios: tuple[float, ...]) -> tuple[Any, ...]:
    return (Prune(ratios, "l2", 8),) if any(ratios) else ()


def _recovery(epochs: int, rate: float, soft: float, transfer: str) -> Recover:
    return Recover(epochs, rate, 4.0, soft, transfer, 1.0, tuple(end for end in RUNGS if end < epochs))


def _format(precision: str) -> tuple[Any, ...]:
    return {"float": (), "int8": (Int8Static("minmax", "uint8", True, "all"),),
            "int4 weights": (WeightOnly(4, 0, True, "gptq", 0),)}[precision]


def _measured(
    profile: str, file: bytes, reference: bytes, inputs: tuple[Any, ...], attempts: tuple[int, ...]
) -> Reading:
    return device(load(profile)).read(file, reference, inputs, attempts)


def _unmeasured(profile: str, *_: Any) -> Reading:
    """Stands in for a latency that is not part of a row."""
    return Reading(1.0, 1.0, None, None)


def _quiet(_: str) -> None:
    return None


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        go(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    else:
        table()
