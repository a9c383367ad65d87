"""How good predicted latencies are on public measurements: errors on models, and machines, never fitted to.

    python benchmarks/predictor.py            the table, and results/predictor.json
    python benchmarks/predictor.py --learn    the defaults of hardware_profiles/prior.py

For every machine the defaults of its kind are learned anew from the other machines of the same source; k models drawn at
random calibrate, the error is that of the rest. The search spaces use the shipped defaults, which come from other
sources. The profile is one of the catalogue, of the kind but of another machine (`--bare`, and always
for microcontrollers, whose profiles cite the table itself: one that states nothing).
The form of the fit, its grid and its quantile were chosen on these tables.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from common import write
from predictor_learn import bare, learned
from predictor_tables import FOLDER, Table, ncnn, qualcomm, spaces, tiny
from scipy.optimize import nnls
from scipy.stats import spearmanr

from pared.hardware_profiles.calibrate import choose, fit, starts
from pared.hardware_profiles.features import features
from pared.hardware_profiles.load import load
from pared.hardware_profiles.predict import QUANTILE, expected, unmeasured
from pared.hardware_profiles.prior import ONNXRUNTIME, Belief, Prior, beliefs
from pared.hardware_profiles.profile import HardwareProfile

DRAWS = 20
PROFILES = {"cpu": "rpi4-ort-cpu", "gpu": "jetson-nano-tensorrt", "npu": "hexagon-8-elite-qnn"}
Predict = Callable[[np.ndarray], np.ndarray]  # rows of test models -> microseconds


@dataclass(frozen=True)
class Set:
    """A table as arrays: features, MACs / bytes / kernels, log microseconds, and the belief beforehand."""

    table: Table
    vectors: np.ndarray
    plain: np.ndarray
    log_us: np.ndarray
    before: list[Belief]


def prepared(table: Table, prior: Prior | None, states: bool) -> Set:
    profile = _profile(table, states)
    vectors = np.array([features(k, profile, table.dtype) for k in table.kernels])
    plain = np.array([[sum(x.macs for x in k) / 1e9, sum(x.weights + x.in_elems + x.out_elems for x in k) / 1e9, len(k)]
                      for k in table.kernels])
    typical = prior and ((prior, ONNXRUNTIME) if table.kind == "cpu" else (prior,))
    return Set(table, vectors, plain, np.log(table.ms * 1e3), beliefs(profile, table.dtype, typical))


def _profile(table: Table, states: bool) -> HardwareProfile:
    return load(PROFILES[table.kind]) if states and table.kind in PROFILES else bare(table.kind, table.dtype)


def linear(s: Set, known: np.ndarray) -> np.ndarray:
    """Time = non-negative sum of MACs, bytes and kernels, least squares of the relative error."""
    weights = np.exp(-s.log_us[known])
    return s.plain @ nnls(s.plain[known] * weights[:, None], np.ones(len(known)))[0]


def macs_only(s: Set, known: np.ndarray) -> np.ndarray:
    return s.plain[:, 0] * np.exp(np.median(s.log_us[known] - np.log(s.plain[known, 0])))


def draw(s: Set, k: int, seed: int) -> dict[str, float]:
    """Mean relative errors on the models that were not drawn, and the share that the interval covers."""
    order = np.random.default_rng(seed).permutation(len(s.log_us))
    known, rest = order[:k], order[k:]
    form, begin, _ = choose(s.vectors[known], s.log_us[known], s.before) if k >= 8 else ("roofline", starts(s.before), None)
    found = fit(s.vectors[known], s.log_us[known], begin)
    told = np.array([expected(v, found.found, found.noise) for v in s.vectors[rest]])
    inside = np.abs(np.log(told[:, 0]) - s.log_us[rest]) < QUANTILE * told[:, 1]
    guesses = {"error": told[:, 0], "linear": linear(s, known)[rest], "macs_only": macs_only(s, known)[rest]}
    errors = {name: float(np.mean(np.abs(g / np.exp(s.log_us[rest]) - 1))) for name, g in guesses.items()}
    return {**errors, "covered": float(inside.mean()), "held_out": float(len(rest)), "plainer": float(form != "roofline")}


def uncalibrated(s: Set) -> float:
    return float(spearmanr([unmeasured(v, s.before)[0] for v in s.vectors], s.log_us).statistic)


def scored(s: Set, ks: Sequence[int]) -> dict[str, Any]:
    t = s.table
    row: dict[str, Any] = {"source": t.source, "kind": t.kind, "machine": t.machine, "setting": t.setting,
                           "dtype": t.dtype, "models": len(t.names), "rank": uncalibrated(s)}
    for k in ks:
        draws = [draw(s, k, seed) for seed in range(DRAWS)]
        row |= {f"{name}_{k}": fmean(d[name] for d in draws) for name in draws[0]}
    return row


def left_out(tables: Sequence[Table], learn_from: Callable[[Table], bool], states: bool) -> list[Set]:
    """Each with defaults learned from the other machines."""
    priors: dict[str, Prior] = {}
    out = []
    for t in tables:
        if t.machine not in priors:
            priors[t.machine] = learned([o for o in tables if o.machine != t.machine and learn_from(o)])
        out.append(prepared(t, priors[t.machine], states))
    return out


def one_net_out(s: Set) -> dict[str, Any]:
    """MLPerf Tiny: fitted to three nets, the error on the fourth."""
    errors, covered = {}, []
    for i, name in enumerate(s.table.names):
        known = np.delete(np.arange(4), i)
        found = fit(s.vectors[known], s.log_us[known], starts(s.before))
        us, sd = expected(s.vectors[i], found.found, found.noise)
        errors[name] = abs(us / np.exp(s.log_us[i]) - 1)
        covered.append(abs(np.log(us) - s.log_us[i]) < QUANTILE * sd)
    return {"source": "tiny", "kind": "mcu", "machine": s.table.machine, "setting": s.table.setting, "dtype": "int8",
            "error_3": fmean(errors.values()), "covered_3": fmean(covered), "held_out_3": 4.0, **errors}


def figures(states: bool) -> list[dict[str, Any]]:
    def floats(t: Table) -> bool:
        return t.dtype != "int8"
    zoo = list(ncnn())
    rows = []
    for kind in ("cpu", "gpu"):
        sets = left_out([t for t in zoo if t.kind == kind], floats, states)
        rows += [scored(s, (3, 5, 10) if floats(s.table) else (3, 5)) for s in sets]
    rows += [scored(s, (3, 5)) for s in left_out(list(qualcomm()), lambda _: True, states)]
    rows += [scored(prepared(t, None, states), (3, 5, 10)) for name in ("fbnet", "nasbench201") for t in spaces(name)]
    rows += [one_net_out(s) for s in left_out(list(tiny()), lambda _: True, states)]
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over the device settings of each table."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[" ".join((row["source"], row["kind"] if row["source"] == "ncnn" else "", row["dtype"])).replace("  ", " ")].append(row)
    return {name: {key: round(fmean(r[key] for r in group), 4) for key, value in group[0].items()
                   if isinstance(value, float) and not key.startswith("held")} for name, group in groups.items()}


def overall(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for k in (5, 10):
        having = [r for r in rows if f"linear_{k}" in r]
        out[f"error_over_linear_{k}"] = round(fmean(r[f"error_{k}"] for r in having) / fmean(r[f"linear_{k}"] for r in having), 3)
        out[f"worse_than_macs_only_{k}"] = [f"{r['machine']} {r['setting']} {r['dtype']}" for r in having
                                            if r[f"error_{k}"] >= r[f"macs_only_{k}"]]
    for k in (3, 5, 10):
        having = [r for r in rows if f"covered_{k}" in r]
        weights = [min(r[f"held_out_{k}"], 25) for r in having]
        out[f"covered_{k}"] = round(float(np.average([r[f"covered_{k}"] for r in having], weights=weights)), 3)
    return out


def learn() -> None:
    """Prints what prior.DEFAULTS holds."""
    floats = [t for t in ncnn() if t.dtype != "int8"]
    for kind, tables in (("cpu", floats), ("gpu", floats), ("npu", list(qualcomm())), ("mcu", list(tiny()))):
        print(f'"{kind}":', learned([t for t in tables if t.kind == kind]))


def main() -> None:
    if not FOLDER.is_dir():
        print(f"no measurements at {FOLDER}: nothing to compare with")
        return
    if "--learn" in sys.argv:
        learn()
        return
    rows = figures("--bare" not in sys.argv)
    for name, means in summary(rows).items():
        print(f"{name:18}", " ".join(f"{key} {value:.3f}" for key, value in means.items()))
    found = {"profiles": "bare" if "--bare" in sys.argv else PROFILES, "draws": DRAWS, "overall": overall(rows), "means": summary(rows),
             "settings": [{k: round(v, 4) if isinstance(v, float) else v for k, v in r.items()} for r in rows]}
    if "--bare" in sys.argv:
        print(found["overall"])
    else:
        print(found["overall"]) if "--dry" in sys.argv else write("predictor", found)


if __name__ == "__main__":
    main()
