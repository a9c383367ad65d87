"""The hardware profile: one machine and one runtime, every number with its source and its doubt."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from .backend import EVIDENCE, Analytic, Backend, Evidence
from .quantity import Bandwidth, Bytes, Channels, Power, Quantity, Rate, Share, Strict, Time

Dtype = Literal["fp32", "fp16", "int8", "int4"]
KernelClass = Literal["conv", "pw", "dw", "gemm"]  # what a peak is reached to a different share by

# What a runtime can turn into speed. Whatever is not listed by a profile is size-only there.
Ability = Literal["fp16", "int8", "int4_weights", "low_bit_weights", "sparsity_2_4", "sparsity_unstructured"]


class Runtime(Strict):
    """The program that executes the file, and how it is set up. Part of what a profile is."""

    name: str  # a name of evaluators/runtimes
    provider: str
    threads: int = Field(ge=1)
    batch: int = Field(default=1, ge=1)


class Precision(Strict):
    """One number format on this machine."""

    native: bool  # false: stored in this format, computed in a wider one
    peak: Rate | None = None
    weight_bytes: float = Field(gt=0, le=16)
    activation_bytes: float = Field(gt=0, le=16)


class Memory(Strict):
    """Limits are hard: a candidate over them does not run there."""

    ram_limit: Bytes | None = None
    flash_limit: Bytes | None = None
    onchip: Bytes | None = None
    bandwidth: Bandwidth | None = None
    spill: Bandwidth | None = None  # for weights beyond `onchip`, where they are streamed at each inference


class Calibration(Strict):
    """What a fit to measurements on the device found; written by `calibrate.py`, never by hand.

    `coefficients` are microseconds per unit of the feature of that name (units in `features.py`),
    `log_covariance` the lower triangle of the covariance of their logs in that order, and `noise` the sd of
    the log latency that they leave open. `doubt` is the 95 % factor for models like the measured ones
    (1.3: the truth lies within prediction / 1.3 .. prediction x 1.3); `predict.py` gives each its own.
    """

    form: str
    coefficients: dict[str, Annotated[float, Field(gt=0, le=1e15)]]
    log_covariance: tuple[tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...], ...] = ()
    noise: float = Field(default=0.0, ge=0, le=1e3)
    doubt: float = Field(ge=1, allow_inf_nan=False)
    loo_mape: float = Field(ge=0, allow_inf_nan=False)  # leave-one-out, a fraction
    models: int = Field(ge=1)
    runtime_version: str = ""
    date: str = ""
    data: str = ""  # sha256 of the measurements

    @model_validator(mode="after")
    def _covariance_is_a_triangle(self) -> Self:
        if any(len(row) != i + 1 for i, row in enumerate(self.log_covariance)):
            raise ValueError("log_covariance: the rows of a lower triangle have 1, 2, 3 ... numbers")
        return self


class HardwareProfile(Strict):
    """One device with one runtime; the same board with another runtime is another profile."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    title: str
    kind: Literal["cpu", "gpu", "npu", "mcu"]
    device: str
    backend: Backend = Analytic()
    runtime: Runtime
    precisions: dict[Dtype, Precision]
    exploits: tuple[Ability, ...]
    activations: Literal["uint8", "int8"]  # the signedness its int8 kernels are fast with
    width_step: Channels  # pruned widths are rounded to a multiple of this
    efficiency: dict[KernelClass, Share] = Field({})  # of the peak, before anything was measured
    memory: Memory = Memory()
    launch_overhead: Time | None = None
    active_power: Power | None = None  # absent: no energy is reported
    sources: dict[str, str]
    calibration: dict[Dtype, Calibration] = Field({})

    @model_validator(mode="after")
    def _every_number_is_sourced(self) -> Self:
        for path, quantity in _quantities(self):
            if quantity.src not in self.sources:
                known = ", ".join(sorted(self.sources)) or "none"
                raise ValueError(f"{path} cites {quantity.src!r}; sources of this profile: {known}")
        return self

    @property
    def evidence(self) -> Evidence:
        """What kind of figure a latency on this profile is."""
        return EVIDENCE[self.backend.kind]

    @property
    def calibrated(self) -> bool:
        """False for predictions that no measurement on the device stands behind: they rank, no more."""
        return self.evidence != "predicted" or bool(self.calibration)

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
