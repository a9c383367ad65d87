"""What kernels cost in a file of 8-bit and float layers, by prices that a step can store."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from ...hardware_profiles.features import NAMES, features
from ...hardware_profiles.kernel import Kernel
from ...hardware_profiles.load import load
from ...hardware_profiles.prior import beliefs
from ...hardware_profiles.profile import HardwareProfile

Prices = tuple[tuple[str, float], ...]  # feature -> microseconds per unit


def prices(profile: HardwareProfile) -> Prices:
    """What the profile charges in an 8-bit file: its calibration, else the typical machines of its kind."""
    known = profile.calibration.get("int8")
    typical = np.exp(np.mean([belief.mean for belief in beliefs(profile, "int8")], axis=0))
    each = dict(known.coefficients) if known else dict(zip(NAMES, typical, strict=True))
    return tuple((name, float(f"{each[name]:.4g}")) for name in NAMES if name in each)


def cost_us(kernels: Sequence[Kernel], kind: str, charged: Prices) -> float:
    """Predicted microseconds of one inference on a machine of this kind."""
    each = dict(charged)
    vector = features(kernels, _machine(kind), "int8")
    return float(sum(each.get(name, 0.0) * x for name, x in zip(NAMES, vector, strict=True)))


@cache
def _machine(kind: str) -> HardwareProfile:
    """Of its numbers, only the kind and the bytes of 8-bit values have a say."""
    return load("host-cpu").model_copy(update={"kind": kind})
