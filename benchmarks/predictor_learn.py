"""What a kind of machine is like: mean and sd of the log coefficients over machines (hierarchical fit, EM)."""

from collections.abc import Sequence

import numpy as np
from predictor_tables import Table

from pared.hardware_profiles.calibrate import FREE_SCALE, map_fit
from pared.hardware_profiles.features import NAMES, features
from pared.hardware_profiles.prior import Prior
from pared.hardware_profiles.profile import HardwareProfile

# Where the fit starts, microseconds per unit in the order of NAMES: from before any table was seen, but for the
# ratio of the kinds. Directions that no table tells of stay there.
SLOW = (20, 40, 40, 150, 100, 100, 300, 300, 300, 300, 5, 2, 100, 100, 100, 900, 300, 3000)
FAST = (0.1, 0.2, 0.2, 2, 0.6, 0.4, 0.4, 15, 10, 10, 2, 2, 200, 20, 2, 30, 10, 3000)
START = {"cpu": SLOW, "gpu": SLOW, "mcu": SLOW, "npu": FAST}
NOISE, START_SD, START_WEIGHT, ROUNDS = 0.12, 0.7, 2.0, 10


def bare(kind: str, dtype: str) -> HardwareProfile:
    """A profile of the kind that says nothing but the width of its formats."""
    width = {"fp32": 4, "fp16": 2, "int8": 1}[dtype]
    return HardwareProfile.model_validate({
        "schema_version": 1, "name": f"bare-{kind}", "title": kind, "kind": kind, "device": kind,
        "runtime": {"name": "any", "provider": "any", "threads": 1}, "exploits": [], "activations": "int8",
        "precisions": {dtype: {"native": True, "weight_bytes": width, "activation_bytes": width}},
        "width_step": {"value": 1, "unit": "channels", "src": "none", "basis": "assumed", "rel_sd": 1},
        "sources": {"none": "none"}})


def learned(tables: Sequence[Table]) -> Prior:
    """Every machine counts the same, however many of its settings were measured."""
    kind = tables[0].kind
    data = [(np.array([features(k, bare(kind, t.dtype), t.dtype) for k in t.kernels]), np.log(t.ms * 1e3)) for t in tables]
    machines = [t.machine for t in tables]
    weights = np.array([1 / machines.count(m) for m in machines])
    mean, sd, scales = np.log(START[kind]), np.full(len(NAMES), START_SD), np.zeros(len(data))
    for _ in range(ROUNDS):
        mean, sd, scales = _round(data, weights, mean, sd)
    middle = mean + np.average(scales, weights=weights)
    return Prior(tuple(float(f"{c:.3g}") for c in np.exp(middle)), tuple(float(f"{s:.2g}") for s in sd))


def _round(data: list, weights: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit each machine under the current belief, take out its scale, then mean and sd over machines."""
    precision = np.linalg.inv(np.diag(sd**2) + FREE_SCALE**2)
    shapes, doubts, scales = [], [], []
    for vectors, log_us in data:
        theta, curvature = map_fit(vectors, log_us, mean, precision, NOISE)
        doubt = np.linalg.inv(curvature)
        spread = np.linalg.inv(np.diag(sd**2) + doubt)
        scale = spread.sum(axis=0) @ (theta - mean) / spread.sum()
        shapes.append(theta - scale)
        doubts.append(np.diag(doubt))
        scales.append(scale)
    new = np.average(shapes, axis=0, weights=weights)
    total = (weights[:, None] * ((np.array(shapes) - new) ** 2 + np.array(doubts))).sum(axis=0)
    var = (total + START_WEIGHT * START_SD**2) / (weights.sum() + START_WEIGHT)
    return new, np.sqrt(var), np.array(scales)
