"""The joint search against its rivals, at equal wall time on the demo's model: what is found, and when.

Arms: the joint search (`joint`, and as named in ARMS); pruning first, quantization of the best pruned model
after (`sequential`); each technique alone; and Ray Tune with OptunaSearch over the same space, which trains,
exports and measures each trial with this project's own trial function. Latency is the measured ratio to the
untouched model, accuracy that of the exported file on the validation images.

`joint_vs_sequential.py run ARM [SECONDS]` runs one arm and keeps its points in
`results/joint_vs_sequential.jsonl`; `report` makes the table. Ray Tune needs pandas, pyarrow and tensorboardX.
"""

import json
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import RESULTS, ROOT, write

import pared
from pared.search.config import RunConfig, build
from pared.search.front import hypervolume
from pared.search.starter import demo
from pared.search.suggest import suggest

LOG = RESULTS / "joint_vs_sequential.jsonl"
WORK = ROOT / "build" / "joint_vs_sequential"
CACHE = str(WORK / "cache")
SECONDS = 600
SLOWEST, FASTEST = 1.0, 1 / 32  # latency ratios at 1 and 0 of the scale
WORST = {"0.7": 0.7, "0.95": 0.95}  # shares of the untouched model's accuracy at which nothing counts
FILES = ("fp16", "int8_static", "int8_nncf", "int8_dynamic", "mixed_int8", "weight_only", "mixed")
MODULES = ("depth", "prune", "heads", "low_rank")

Point = tuple[float, float, float]  # seconds since the start, accuracy, ratio


def off(*names: str) -> dict[str, bool]:
    return dict.fromkeys(names, False)


def config(seconds: float, space: dict[str, Any] | None = None, **search: Any) -> RunConfig:
    """The demo's, for so long, with its own cache, emptied before each arm."""
    plain = demo(10_000)[0].model_dump(mode="json", exclude_none=True)
    plain["space"] = {**plain["space"], **(space or {})}
    plain["search"] = {**plain["search"], "timeout": seconds, **search}
    plain["cluster"] = {**plain["cluster"], "cache": CACHE}
    plain["max_accuracy_drop"] = 0.01
    return build(plain, {}, "joint_vs_sequential")


def searched(name: str, made: RunConfig, began: float) -> tuple[pared.Run, list[Point]]:
    from pared.evaluators.subjects.find import find
    from pared.search.api import start

    class Over(Exception):
        """The search is over; the final scoring belongs to no arm."""

    def watch(driver: Any) -> None:
        if time.time() - driver.started > made.search.timeout:  # later points would not count
            raise Over

    base = demo(1)[1]
    with suppress(Over):
        start(made, find(made.model, base), WORK / name, base, watch)
    run = pared.open_run(WORK / name)
    return run, points(run, began)


def points(run: Any, began: float) -> list[Point]:
    """The untouched model, which everyone has from the start, and what was found."""
    found = [(0.0, run.untouched.accuracy, 1.0)]
    for trial in run.trials:
        outcome = trial.user_attrs.get("outcome", {})
        if outcome.get("state") == "complete":
            ratio = outcome["metrics"]["latency_ms@host-cpu"]["value"] / run.untouched.latency_ms["host-cpu"]
            found.append((trial.user_attrs["ended"] - began, outcome["metrics"]["accuracy"]["value"], ratio))
    return found


def joint(name: str, seconds: float, **search: Any) -> list[Point]:
    return searched(name, config(seconds, **search), time.time())[1]


def alone(name: str, seconds: float) -> list[Point]:
    kept = {"pruning": off(*FILES), "quantization": off(*MODULES, "recover"),
            "distillation": off(*FILES, *MODULES)}[name]
    return searched(name, config(seconds, kept), time.time())[1]


def sequential(seconds: float) -> list[Point]:
    """Half the time for pruning; the rest for the number formats of the fastest that loses at most a point."""
    began = time.time()
    first, found = searched("sequential-1", config(seconds / 2, off(*FILES)), began)
    chosen = first.pick(max_drop=0.01).trial
    values = next(trial.params for trial in first.trials if trial.number == chosen)
    fixed: dict[str, Any] = {}
    for name, value in values.items():
        technique, _, knob = name.partition(".")
        if knob and technique in (*MODULES, "recover") and values.get(technique, True):
            fixed.setdefault(technique, {})[knob] = value
    unused = [name for name in MODULES if not values.get(name)]
    left = max(1.0, seconds - (time.time() - began))
    _, more = searched("sequential-2", config(left, {**fixed, **off(*unused)}), began)
    return found + more


@dataclass
class Spelled:
    """The whole conditional space, as OptunaSearch takes one; it pickles this."""

    space: Any

    def __call__(self, trial: Any) -> dict[str, Any]:
        return {"values": json.dumps(suggest(trial, self.space))}


def tune(seconds: float) -> list[Point]:
    """Every trial on its own, as with these tools by hand: no anchors, no shared trainings, no budgets."""
    import ray
    from ray import tune as ray_tune
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    began = time.time()
    bench, space = prepared(config(seconds))
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (demo(1)[1], Path(__file__).parent)))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    shared, events, untouched_ms = ray.put(bench), WORK / "tune.jsonl", bench.untouched_ms["host-cpu"]

    def evaluate(config: dict[str, Any]) -> None:
        recipe = space.decode(json.loads(config["values"]))
        outcome = scored(recipe.json, ray.get(shared))
        if outcome.state != "complete":
            ray_tune.report({"accuracy": 0.0, "latency": 1.0})
            return
        figures = {name: metric["value"] for name, metric in outcome.metrics.items()}
        ratio = figures["latency_ms@host-cpu"] / untouched_ms
        with events.open("a") as log:
            print(json.dumps((time.time() - began, figures["accuracy"], ratio)), file=log)
        ray_tune.report({"accuracy": figures["accuracy"], "latency": ratio})

    search = ConcurrencyLimiter(
        OptunaSearch(Spelled(space), metric=["accuracy", "latency"], mode=["max", "min"], seed=0), 2)
    ray_tune.Tuner(
        ray_tune.with_resources(evaluate, {"cpu": 1}),
        tune_config=ray_tune.TuneConfig(num_samples=-1, time_budget_s=seconds - (time.time() - began),
                                        search_alg=search, reuse_actors=True),
        run_config=ray_tune.RunConfig(storage_path=str(WORK / "tune"), verbose=0)).fit()
    ray.shutdown()
    found = [tuple(json.loads(line)) for line in events.read_text().splitlines()]
    return [(0.0, float(bench.untouched_scores["validation"].mean()), 1.0), *found]


def prepared(made: RunConfig) -> tuple[Any, Any]:
    """What trials share, and the space, as a search makes them."""
    from dataclasses import replace

    from pared.evaluators.subjects.find import find
    from pared.search.prepare import prepare, teach
    from pared.search.sensing import sense
    from pared.search.trial import Bench
    from pared.spaces import space as spaces

    subject, store = find(made.model, demo(1)[1]), str(WORK / "tune-files")
    Path(store).mkdir(parents=True)
    ready = prepare(subject, made.searched, store, None, 1, (), (), measured, print)
    felt = sense(subject, store, CACHE, ready.untouched.sha256, ready.keep, measured, print)
    space = spaces.build(replace(ready.scope, sensitivity=felt), made.space)
    teacher = teach(subject, ready.content, CACHE, ready.scope.taps, space.transfers, measured, print)
    return Bench(subject, made.searched, store, 1, 0, ready.untouched.sha256, ready.scores,
                 ready.untouched.latency_ms, {}, teacher), space


def scored(recipe: str, bench: Any) -> Any:
    from pared.search.records import Job
    from pared.search.trial import run

    return run(Job(0, recipe), bench, measured, lambda _: None)


def measured(profile: str, *what: Any) -> Any:
    from pared.evaluators.devices import device
    from pared.hardware_profiles.load import load

    return device(load(profile)).read(*what)


ARMS: dict[str, Any] = {
    "joint": lambda seconds: joint("joint", seconds),
    "joint, front": lambda seconds: joint("joint-front", seconds, sampler="front"),
    "joint, rungs": lambda seconds: joint("joint-rungs", seconds, sampler="front", rungs=[1, 3]),
    "sequential": sequential,
    "pruning": lambda seconds: alone("pruning", seconds),
    "quantization": lambda seconds: alone("quantization", seconds),
    "distillation": lambda seconds: alone("distillation", seconds),
    "tune": tune,
}


def go(arm: str, seconds: float) -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    found = ARMS[arm](seconds)
    saved = {file.parent.name: pared.open_run(file.parent).saved for file in WORK.glob("*/run.yaml")}
    with LOG.open("a") as log:
        print(json.dumps({"arm": arm, "seconds": seconds, "saved": saved, "points": found}), file=log)


def volume(found: list[Point], until: float, worst: float, best: float) -> float:
    """Of what was there by then; log ratio scaled to 0-1, accuracy as a share of the untouched model's."""
    low, high = np.log(FASTEST), np.log(SLOWEST)
    scaled = [((float(np.log(ratio)) - low) / (high - low), 1 - accuracy / best)
              for ended, accuracy, ratio in found if ended <= until]
    return hypervolume(scaled, (1.0, 1 - worst)) / (1 - worst)


def report() -> dict[str, Any]:
    rows = {row["arm"]: row for row in map(json.loads, LOG.read_text().splitlines())}
    best = rows["tune"]["points"][0][1]
    found: dict[str, Any] = {}
    for name, worst in WORST.items():
        end = {arm: volume(row["points"], row["seconds"], worst, best) for arm, row in rows.items()}
        times = {arm: next((t for t, *_ in sorted(row["points"]) if volume(row["points"], t, worst, best)
                            >= end.get("tune", 1.0)), None) for arm, row in rows.items()}
        found[name] = {arm: {"hypervolume": end[arm], "seconds_to_tune": times[arm],
                             "candidates": len(rows[arm]["points"]),
                             "share_of_time_saved": rows[arm].get("saved", {})} for arm in rows}
    return found


if __name__ == "__main__":
    if sys.argv[1] == "run":
        go(sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else SECONDS)
    else:
        write("joint_vs_sequential", report())
