"""The other architectures that the user named: found, and tried, before anything is written."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from ...errors import SubjectError
from ...spaces.passes.student import fresh, output_shape
from ...spaces.subject import Subject, example_inputs
from .find import guarded, load

Factory = Callable[[], nn.Module]


def find_students(
    named: Mapping[str, str | Factory], subject: Subject, base: Path
) -> dict[str, Factory]:
    """Name -> function without arguments that builds a student; a reference is relative to `base`.

    Raises SubjectError: nothing there, not a module, refuses the subject's inputs, other outputs.
    """
    return {name: _tried(name, given, subject, base) for name, given in named.items()}


def _tried(name: str, given: str | Factory, subject: Subject, base: Path) -> Factory:
    key = f"students.{name}"
    build = load(given, base, key) if isinstance(given, str) else given
    what = given if isinstance(given, str) else getattr(given, "__name__", repr(given))
    if isinstance(build, nn.Module) or not callable(build):
        raise SubjectError(f"{key}: {what} is a {type(build).__name__}; it must be a function without "
                           "arguments that returns a torch.nn.Module")
    made = guarded(str(what), build, key)
    if not isinstance(made, nn.Module):
        raise SubjectError(f"{key}: {what} returned a {type(made).__name__}, not a torch.nn.Module")
    _check_shape(f"{key}: {what}", build, subject)
    return build


def _check_shape(what: str, build: Factory, subject: Subject) -> None:
    inputs = example_inputs(subject)
    want = output_shape(subject.model(), inputs)
    try:
        got = output_shape(fresh(build, 0), inputs)
    except Exception as error:
        shapes = ", ".join(str(array.shape) for array in inputs)
        raise SubjectError(f"{what} refuses inputs of shape {shapes}: {error}") from error
    if got != want:
        raise SubjectError(f"{what} gives outputs of shape {got}, the model {want}")
