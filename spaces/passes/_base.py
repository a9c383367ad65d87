"""The contract of a pass: its step (what a recipe stores), its knobs, and its transform.

A module pass changes a torch module, a training pass trains one, a file pass rewrites the exported
ONNX graph. A pass returns a new object and never changes what it was given.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import onnx
from torch import nn

from ...hardware_profiles.profile import Ability, HardwareProfile
from ..knob import Knob, Value
from ..subject import Array, Split, Subject

Calibration = Mapping[str, Array]  # graph input name -> (n, ...)


class Step(Protocol):
    """One entry of a recipe: a frozen dataclass of plain values; `str` is short, for people."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Scope:
    """What a pass may know of the subject and the machines when it declares its knobs."""

    stages: tuple[str, ...]  # the prunable stages of the network, in order of execution
    operators: Mapping[str, float]  # ONNX operator -> its share of all weights, 0-1
    profiles: tuple[HardwareProfile, ...]

    @property
    def width_step(self) -> int:
        return max(profile.step for profile in self.profiles)

    def share(self, *operators: str) -> float:
        return sum(self.operators.get(name, 0.0) for name in operators)


class Pass(Protocol):
    """What every pass has."""

    name: str
    does: str  # one line, for people
    paper: str
    ability: Ability | None  # what a machine must exploit for this to be speed, not only size
    step: type

    def refused(self, scope: Scope) -> str | None:
        """Why this pass is of no use here, or None."""
        ...

    def knobs(self, scope: Scope) -> dict[str, Knob]: ...

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        """Known-good settings of the knobs, the safest first."""
        ...

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Any:
        """Knob values -> step, or None where the values amount to doing nothing."""
        ...


class ModulePass(Pass, Protocol):
    def apply(self, step: Any, model: nn.Module, inputs: tuple[Array, ...]) -> nn.Module: ...


class TrainingPass(Pass, Protocol):
    def train(
        self,
        step: Any,
        model: nn.Module,
        subject: Subject,
        teacher: Array,
        seed: int,
        on_step: Callable[[float], None],
    ) -> nn.Module: ...


class FilePass(Pass, Protocol):
    tolerance: float  # largest error of the outputs, as a share of their norm, that is no bug

    def apply(self, step: Any, model: onnx.ModelProto, data: Calibration) -> onnx.ModelProto: ...

    def check(self, step: Any, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        """Raises GateError when the file does not hold what the step promises."""
        ...


__all__ = [
    "Array", "Calibration", "FilePass", "ModulePass", "Pass", "Scope", "Split", "Step",
    "TrainingPass",
]
