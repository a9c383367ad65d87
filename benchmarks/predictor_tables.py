"""Measured tables of ../shared/latency as sets: one device setting each, models with kernels and milliseconds."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from predictor_nets import published
from predictor_spaces import SPACES, TINY

from pared.hardware_profiles.kernel import Kernel

FOLDER = Path(__file__).parents[2] / "shared" / "latency"
SAMPLED = 300  # nets of a search space


@dataclass(frozen=True)
class Table:
    """One device setting. `machine` is what is left out together; kernels and ms are of one model each."""

    source: str
    kind: str
    machine: str
    setting: str
    dtype: str
    names: tuple[str, ...]
    kernels: tuple[list[Kernel], ...]
    ms: np.ndarray


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open() as file:
        return list(csv.DictReader(file))


def gathered(source: str, cells: dict[tuple[str, ...], dict[str, float]], kernels: dict[str, list[Kernel]], least: int) -> Iterator[Table]:
    """Cells: (kind, machine, setting, dtype) -> model -> ms."""
    for (kind, machine, setting, dtype), found in cells.items():
        names = tuple(sorted(found))
        if len(names) >= least:
            yield Table(source, kind, machine, setting, dtype, names, tuple(kernels[n] for n in names),
                        np.array([found[n] for n in names]))


def ncnn() -> Iterator[Table]:
    """Float and int8 models; a SoC is one machine whatever its threads, power setting or GPU."""
    models = json.loads((FOLDER / "zoo_kernels.json").read_text())["models"]
    kernels = {name: [Kernel(*row) for row in model["kernels"]] for name, model in models.items()}
    cells: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for r in rows("zoo_latency_ncnn.csv"):
        gpu, int8 = float(r["gpu"]) >= 0, r["model"].endswith("_int8")
        if r["model"] in kernels and float(r["min_ms"]) > 0 and not (gpu and int8):
            key = ("gpu" if gpu else "cpu", r["device"][:28], f"threads {r['threads']} powersave {r['powersave']}",
                   "int8" if int8 else "fp32")
            cells[key][r["model"]] = float(r["min_ms"])
    yield from gathered("ncnn", cells, kernels, 7)


def qualcomm() -> Iterator[Table]:
    """Float (run as fp16) and w8a8, only where every layer ran on the NPU."""
    kernels = published()
    cells: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for r in rows("zoo_latency_qualcomm_npu.csv"):
        dtype = {"float": "fp16", "w8a8": "int8"}.get(r["precision"])
        if dtype and r["model"] in kernels and r["layers_npu"] and not r["layers_cpu"] and not r["layers_gpu"]:
            cells["npu", r["device"], r["runtime"], dtype][r["model"]] = float(r["latency_ms"])
    yield from gathered("qualcomm", cells, kernels, 10)


def tiny() -> Iterator[Table]:
    """int8 on Cortex-M without an accelerator, all four nets; a board is one machine."""
    cells: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for r in rows("mlperf_tiny.csv"):
        cortex = "ortex" in r["processor"] and not r["accelerator"] and r["division"] == "closed"
        if cortex and "float" not in r["system"]:
            board = "".join(c for c in r["system"].lower().split("/")[-1] if c.isalnum())[:11]
            cells["mcu", board, f"{r['round']} {r['submitter']} {r['system']}", "int8"][r["benchmark"]] = float(r["latency_ms"])
    yield from gathered("tiny", cells, TINY, 4)


# How each device ran the graph, the better fitting of the two: op by op (eager), or optimised with dead edges removed.
HELP = {"fbnet": {"pixel3": False, "titan_rtx_1": True, "gold_6240": True, "samsung_s7": False},
        "nasbench201": {"pixel3": False, "titan_rtx_1": True, "titan_rtx_256": True, "gold_6240": True, "samsung_s7": True}}


def spaces(name: str) -> Iterator[Table]:
    """FBNet and NAS-Bench-201: a sample of nets; near-zero rows (folded away) are dropped."""
    data: Any = np.load(FOLDER / f"{name}.npz")
    for device, eager in HELP[name].items():
        ms = data[f"latency_ms__{device}"].astype(float)
        picked = np.random.default_rng(1).permutation(len(ms))[:SAMPLED]
        picked = picked[ms[picked] > 0.05 * np.median(ms)]
        yield Table(name, "gpu" if "titan" in device else "cpu", device, "eager" if eager else "optimised", "fp32",
                    tuple(map(str, picked)), tuple(SPACES[name](data, i, eager) for i in picked), ms[picked])
