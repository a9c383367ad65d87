"""Another architecture that the user named, in place of the model, taught by the model.

The search treats it as one more choice: `students:` of a run file, or `students=` in Python.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ...errors import GateError, unknown
from ..knob import Choice, Knob, Value
from ..subject import Array
from ._base import Materials, ModulePass, Scope


@dataclass(frozen=True, slots=True)
class Student:
    """`which` is a name under `students`."""

    which: str

    def __str__(self) -> str:
        return f"student {self.which}"


class StudentPass(ModulePass):
    """`Student`, see the module."""

    name = "student"
    does = "takes another architecture that the user named, to be taught by the model"
    paper = "Knowledge distillation, arXiv:1503.02531"
    ability = None
    step = Student

    def refused(self, scope: Scope) -> str | None:
        if not scope.students:
            return "the run names no students"
        return "it would replace the layers that are kept" if scope.keep else None

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {"which": Choice(scope.students)}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        """Each: whoever names one wants it tried."""
        return tuple({"which": name} for name in scope.students)

    def decode(self, values: Mapping[str, Value], scope: Scope) -> Student:
        return Student(str(values["which"]))

    def apply(self, step: Student, model: nn.Module, materials: Materials) -> nn.Module:
        """A fresh student. Raises GateError: none of that name, or its outputs are not the model's."""
        if step.which not in materials.students:
            raise GateError(unknown("student", step.which, materials.students))
        student = fresh(materials.students[step.which], materials.seed)
        got, teacher = output_shape(student, materials.inputs), materials.teacher
        want = teacher.outputs.shape[1:] if teacher else output_shape(model, materials.inputs)[1:]
        if got[1:] != want:
            raise GateError(f"{step}: outputs of shape {got[1:]} an example, the model's are {want}")
        if _same(student, model):
            raise GateError(f"{step} is the model itself")
        return student


def fresh(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A student as its factory makes it, the same for a seed; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().cpu().eval()


def output_shape(model: nn.Module, inputs: tuple[Array, ...]) -> tuple[int, ...]:
    """Of the first output, (batch, ...)."""
    with torch.inference_mode():
        found = model.eval()(*(torch.from_numpy(np.array(array)) for array in inputs))
    return tuple((found if isinstance(found, torch.Tensor) else found[0]).shape)


def _same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        value.shape == theirs[name].shape and torch.equal(value, theirs[name])
        for name, value in ours.items())
