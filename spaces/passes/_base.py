"""The contract of a pass: its step (what a recipe stores), its knobs, and its transform.

A module pass changes a torch module, a training pass trains one, a file pass rewrites the exported
ONNX graph, a tuning pass trains the weights inside a rewritten graph. A pass returns a new object and
never changes what it was given.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import onnx
from torch import nn

from ...hardware_profiles.profile import Ability, HardwareProfile
from ..knob import Knob, Value
from ..materials import Materials
from ..sensitivity import Sensitivity
from ..subject import Array, Split

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
    keep: tuple[str, ...] = ()  # paths of modules that no pass may change
    heads: Mapping[str, int] = field(default_factory=dict)  # attention module -> its heads
    blocks: tuple[str, ...] = ()  # residual blocks, the least needed first
    factors: tuple[str, ...] = ()  # layers that a low-rank factorisation makes cheaper
    students: tuple[str, ...] = ()  # other architectures that the user named
    sensitivity: Sensitivity | None = None
    taps: tuple[str, ...] = ()  # modules whose outputs a student can be taught
    batch_norm: bool = True  # whether a scale of each channel says what it is worth
    rungs: tuple[int, ...] = ()  # epochs at which a training is judged, and goes on only if it is worth it

    @property
    def width_step(self) -> int:
        return max(profile.step for profile in self.profiles)

    def share(self, *operators: str) -> float:
        return sum(self.operators.get(name, 0.0) for name in operators)

    def uses(self, ability: Ability | None) -> bool:
        """Whether some machine turns it into speed."""
        return any(profile.uses(ability) for profile in self.profiles)

    def gain(self, ability: Ability, work: float) -> float:
        """`work` where some machine turns the ability into speed, else 1."""
        return work if self.uses(ability) else 1.0


@dataclass(frozen=True, slots=True)
class Left:
    """Shares, 0-1, of the work and of the bytes of a model that a step leaves: rough, never shown."""

    work: float = 1.0
    bytes: float = 1.0


class Pass(Protocol):
    """What every pass has."""

    name: str
    does: str  # one line, for people
    paper: str
    ability: Ability | None  # what a machine must exploit for this to be speed, not only size
    step: type
    # Knob (or the first part of its name) -> (another knob, the values of it that this one is for).
    only_if: ClassVar[Mapping[str, tuple[str, tuple[Value, ...]]]] = {}

    def refused(self, scope: Scope) -> str | None:
        """Why this pass is of no use here, or None."""
        ...

    def knobs(self, scope: Scope) -> dict[str, Knob]: ...

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        """Known-good settings of the knobs, the safest first."""
        ...

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Any:
        """Values of the active knobs -> step, or None where they amount to doing nothing."""
        ...

    def needs(self, step: Any) -> Ability | None:
        """What a machine must exploit for this very step to be speed."""
        return self.ability

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        """What these knobs are expected to leave; helps to choose what to try next."""
        return Left()


class ModulePass(Pass, Protocol):
    def apply(self, step: Any, model: nn.Module, materials: Materials) -> nn.Module: ...


class TrainingPass(Pass, Protocol):
    def legs(self, step: Any) -> tuple[Any, ...]:
        """Steps that `train` takes one after the other; what each leaves can be kept and gone on from."""
        return (step,)

    def train(self, step: Any, model: nn.Module, materials: Materials) -> nn.Module: ...


class FilePass(Pass, Protocol):
    tolerance: float  # largest error of the outputs, as a share of their norm, that is no bug

    def apply(
        self, step: Any, model: onnx.ModelProto, data: Calibration, keep: Set[str] = frozenset()
    ) -> onnx.ModelProto:
        """`keep`: names of weights that stay as they are."""
        ...

    def check(self, step: Any, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        """Raises GateError when the file does not hold what the step promises."""
        ...


class TuningPass(Pass, Protocol):
    def tune(
        self, step: Any, graph: onnx.ModelProto, origin: onnx.ModelProto, materials: Materials
    ) -> onnx.ModelProto:
        """The same graph with trained weights, scales and biases; `origin` is the float graph before it."""
        ...

    def check(self, step: Any, before: onnx.ModelProto, after: onnx.ModelProto) -> None: ...

    def outputs(self, graph: onnx.ModelProto, inputs: tuple[Array, ...]) -> Array:
        """What the trained module gives for the graph: the file must give the same."""
        ...


__all__ = [
    "Array", "Calibration", "FilePass", "Left", "Materials", "ModulePass", "Pass", "Scope", "Split", "Step",
    "TrainingPass", "TuningPass",
]
