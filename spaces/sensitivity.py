"""How much each layer minds: what the outputs lose when one layer alone has fewer bits or is narrower."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import RunError, shown
from ..hardware_profiles.kernel import BYTES, Kernel

BITS = (8, 4, 3, 2)
RATIOS = (0.25, 0.5, 0.75)
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Layer:
    """What a layer costs: its weight as a matrix in the file, and each call of it in float, at batch 1."""

    operator: str  # of the file: Conv, ConvTranspose, Gemm or MatMul
    outputs: int
    inputs: int  # of one output
    kernels: tuple[Kernel, ...]


@dataclass(frozen=True)
class Sensitivity:
    """Rise of the distance to the untouched model's outputs on calibration data, layer by layer.

    The distance is the squared error of the outputs as a share of their own square sum: 0 is no change,
    1 is as far off as outputs of zero. Of changes that do not know of each other it adds up. Kept layers
    are not in it. `int8`: weights and the inputs of the layer in 8 bits.
    """

    bits: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # weight name -> bits -> rise
    ratios: Mapping[str, Mapping[float, float]] = field(default_factory=dict)  # root -> ratio -> rise
    int8: Mapping[str, float] = field(default_factory=dict)  # weight name -> rise
    layers: Mapping[str, Layer] = field(default_factory=dict)  # weight name -> what it costs
    examples: int = 0  # calibration examples it was measured on

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "distance": "squared error / sum of squares of the outputs",
            "examples": self.examples, "int8": dict(self.int8),
            "bits": {name: {str(bits): rise for bits, rise in row.items()}
                     for name, row in self.bits.items()},
            "ratios": {name: {str(ratio): rise for ratio, rise in row.items()}
                       for name, row in self.ratios.items()},
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
        }


def from_json(plain: Mapping[str, Any]) -> Sensitivity:
    """What `to_json` gave, also after a round trip through text. Raises RunError: something else."""
    try:
        if plain["format"] != FORMAT:
            raise RunError(f"sensitivities of format {shown(plain['format'])}, this pared reads {FORMAT}")
        return _whole(Sensitivity(
            {name: {int(bits): float(rise) for bits, rise in row.items()}
             for name, row in plain["bits"].items()},
            {name: {float(ratio): float(rise) for ratio, rise in row.items()}
             for name, row in plain["ratios"].items()},
            {name: float(rise) for name, rise in plain["int8"].items()},
            {name: _layer(row) for name, row in plain["layers"].items()}, int(plain["examples"])))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"these are no sensitivities: {type(error).__name__}: {str(error)[:400]}") from error


def _whole(found: Sensitivity) -> Sensitivity:
    """Raises ValueError: a column is missing, a rise is no number, a name has half characters."""
    rows = [(row, BITS) for row in found.bits.values()] + [(row, RATIOS) for row in found.ratios.values()]
    if any(set(row) != set(columns) for row, columns in rows) or found.int8.keys() != found.bits.keys():
        raise ValueError(f"each layer has a rise at {BITS} bits and at int8, each group at {RATIOS}")
    rises = [*found.int8.values(), *(rise for row, _ in rows for rise in row.values())]
    if not all(math.isfinite(rise) for rise in rises):
        raise ValueError("a rise is not a finite number")
    "".join((*found.bits, *found.ratios, *found.layers)).encode()
    return found


def _layer(row: Mapping[str, Any]) -> Layer:
    return Layer(str(row["operator"]), int(row["outputs"]), int(row["inputs"]),
                 tuple(_kernel(**kernel) for kernel in row["kernels"]))


def _kernel(op: str, dtype: str = "", **counts: int) -> Kernel:
    if dtype not in BYTES:
        raise ValueError(f"dtype {shown(dtype)}, known: {', '.join(filter(None, BYTES))}")
    return Kernel(str(op), dtype=dtype, **{name: int(count) for name, count in counts.items()})
