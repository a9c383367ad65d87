"""A number with its unit, its source and its doubt: the only kind that a profile holds."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Basis = Literal["vendor", "measured", "derived", "assumed"]

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


class Strict(BaseModel):
    """Frozen, and no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantity(Strict):
    """A number with its unit, where it comes from, and how far to trust it.

    `src` names an entry of the profile's `sources`; `rel_sd` is the relative standard
    deviation (0.5: the true value is within a factor of about two).
    """

    value: float = Field(gt=0, le=1e15, allow_inf_nan=False)
    unit: str
    src: str
    basis: Basis
    rel_sd: float = Field(ge=0, le=5, allow_inf_nan=False)

    @model_validator(mode="after")
    def _unit_is_known(self) -> Self:
        if not any(self.unit in row for row in UNITS.values()):
            known = ", ".join(unit for row in UNITS.values() for unit in row)
            raise ValueError(f"unknown unit {self.unit!r}. Known: {known}")
        if self.value < 1e-9:
            raise ValueError(f"{self.value} {self.unit} is too small for a machine")
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
Share = Annotated[Quantity, _in("share")]
