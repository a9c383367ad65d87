"""One look at the subject before the search: its stages, and where its weights are."""

import onnx
from torch import nn

from ..hardware_profiles.profile import HardwareProfile
from .passes import Scope, _onnx
from .passes.prune import prunable, stages_of
from .subject import Array
from .taps import MOST, spaced, taps


def survey(
    model: nn.Module,
    inputs: tuple[Array, ...],
    exported: onnx.ModelProto,
    profiles: tuple[HardwareProfile, ...],
    keep: tuple[str, ...] = (),
    students: tuple[str, ...] = (),
) -> Scope:
    """The scope of a search: `inputs` are example inputs (batch, ...), `exported` the untouched file."""
    groups = prunable(model, inputs, keep)
    names = tuple(f"stage{i}" for i, _ in enumerate(stages_of(groups), 1)) if groups else ()
    return Scope(names, _onnx.weight_shares(exported), profiles, keep, students=students,
                 taps=spaced(taps(model, inputs), MOST))
