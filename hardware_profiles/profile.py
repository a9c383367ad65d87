"""The hardware profile: one machine and one runtime, every number with its source and its doubt."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Evidence = Literal["measured", "compiled", "predicted"]
Basis = Literal["vendor", "measured", "derived", "assumed"]
Dtype = Literal["fp32", "fp16", "int8", "int4"]

# What a runtime can turn into speed. Whatever is not listed by a profile is size-only there.
Ability = Literal["fp16", "int8", "int4_weights", "sparsity_2_4", "sparsity_unstructured"]

# dimension -> unit -> factor to the first unit of the row
UNITS: dict[str, dict[str, float]] = {
    "rate": {"GMAC/s": 1.0, "MMAC/s": 1e-3, "TMAC/s": 1e3},
    "bandwidth": {"GB/s": 1.0, "MB/s": 1e-3},
    "bytes": {"B": 1.0, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3},
    "time": {"us": 1.0, "ms": 1e3},
    "power": {"mW": 1.0, "W": 1e3},
    "channels": {"channels": 1.0},
    "share": {"fraction": 1.0},
}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantity(_Strict):
    """A number with its unit, where it comes from, and how far to trust it.

    `src` names an entry of the profile's `sources`; `rel_sd` is the relative standard
    deviation (0.5: the true value is within a factor of about two).
    """

    value: float = Field(gt=0, allow_inf_nan=False)
    unit: str
    src: str
    basis: Basis
    rel_sd: float = Field(ge=0, le=5, allow_inf_nan=False)

    @model_validator(mode="after")
    def _unit_is_known(self) -> Self:
        if not any(self.unit in row for row in UNITS.values()):
            known = ", ".join(unit for row in UNITS.values() for unit in row)
            raise ValueError(f"unknown unit {self.unit!r}. Known: {known}")
        return self

    @property
    def dimension(self) -> str:
        return next(name for name, row in UNITS.items() if self.unit in row)

    @property
    def base(self) -> float:
        """The value in the first unit of its dimension (GMAC/s, GB/s, B, us, mW, channels)."""
        return self.value * UNITS[self.dimension][self.unit]


def _in(dimension: str) -> AfterValidator:
    def check(quantity: Quantity) -> Quantity:
        if quantity.dimension != dimension:
            units = ", ".join(UNITS[dimension])
            raise ValueError(f"unit {quantity.unit!r} is not a {dimension}; allowed: {units}")
        return quantity

    return AfterValidator(check)


Rate = Annotated[Quantity, _in("rate")]
Bandwidth = Annotated[Quantity, _in("bandwidth")]
Bytes = Annotated[Quantity, _in("bytes")]
Time = Annotated[Quantity, _in("time")]
Power = Annotated[Quantity, _in("power")]
Channels = Annotated[Quantity, _in("channels")]


class Runtime(_Strict):
    """The program that executes the file, and how it is set up. Part of what a profile is."""

    name: str  # a name of evaluators/runtimes
    provider: str
    threads: int = Field(ge=1)
    batch: int = Field(default=1, ge=1)


class Precision(_Strict):
    """One number format on this machine."""

    native: bool  # false: stored in this format, computed in a wider one
    peak: Rate | None = None
    weight_bytes: float = Field(gt=0)
    activation_bytes: float = Field(gt=0)


class Memory(_Strict):
    """Limits are hard: a candidate over them does not run there."""

    ram_limit: Bytes | None = None
    flash_limit: Bytes | None = None
    onchip: Bytes | None = None
    bandwidth: Bandwidth | None = None


class HardwareProfile(_Strict):
    """One device with one runtime; the same board with another runtime is another profile."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    title: str
    kind: Literal["cpu", "gpu", "npu", "mcu"]
    device: str
    evidence: Evidence  # what kind of figure a latency on this profile is
    runtime: Runtime
    precisions: dict[Dtype, Precision]
    exploits: tuple[Ability, ...]
    activations: Literal["uint8", "int8"]  # the signedness its int8 kernels are fast with
    width_step: Channels  # pruned widths are rounded to a multiple of this
    memory: Memory = Memory()
    launch_overhead: Time | None = None
    active_power: Power | None = None  # absent: no energy is reported
    sources: dict[str, str]

    @model_validator(mode="after")
    def _every_number_is_sourced(self) -> Self:
        for path, quantity in _quantities(self):
            if quantity.src not in self.sources:
                known = ", ".join(sorted(self.sources)) or "none"
                raise ValueError(f"{path} cites {quantity.src!r}; sources of this profile: {known}")
        return self

    @property
    def step(self) -> int:
        """Pruned widths are multiples of this many channels."""
        return max(1, math.ceil(self.width_step.base))

    def uses(self, ability: Ability | None) -> bool:
        """Whether this machine turns the ability into speed (None: dense and smaller, always)."""
        return ability is None or ability in self.exploits


def _quantities(node: object, path: str = "profile") -> Iterator[tuple[str, Quantity]]:
    if isinstance(node, Quantity):
        yield path, node
    elif isinstance(node, BaseModel):
        for name in type(node).model_fields:
            yield from _quantities(getattr(node, name), f"{path}.{name}")
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _quantities(value, f"{path}.{name}")
