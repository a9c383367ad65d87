"""How much each layer minds: the loss that one layer alone costs at fewer bits or narrower."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sensitivity:
    """Rise of the distance to the untouched model's outputs on calibration data, layer by layer."""

    bits: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # weight name -> bits -> rise
    ratios: Mapping[str, Mapping[float, float]] = field(default_factory=dict)  # root -> ratio -> rise
