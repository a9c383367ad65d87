"""One look at the subject before the search: its stages, and where its weights are."""

import onnx
from torch import nn

from ..hardware_profiles.profile import HardwareProfile
from .passes import Scope, _onnx, depth, heads, low_rank
from .passes.prune import prunable, stages_of
from .subject import Array, Subject
from .taps import MOST, spaced, taps

BATCH_NORM = nn.modules.batchnorm._BatchNorm


def survey(
    model: nn.Module,
    inputs: tuple[Array, ...],
    exported: onnx.ModelProto,
    profiles: tuple[HardwareProfile, ...],
    keep: tuple[str, ...] = (),
    students: tuple[str, ...] = (),
    subject: Subject | None = None,
) -> Scope:
    """The scope of a search: `inputs` are example inputs (batch, ...), `exported` the untouched file.

    `subject` says how much its loss minds the loss of each block; without it they are in order of execution.
    """
    groups = prunable(model, inputs, keep)
    names = tuple(f"stage{i}" for i, _ in enumerate(stages_of(groups), 1)) if groups else ()
    return Scope(names, _onnx.weight_shares(exported), profiles, keep, students=students,
                 heads={site.name: site.heads for site in heads.removable(model, inputs, keep)},
                 blocks=depth.ranked(model, inputs, keep, subject),
                 factors=low_rank.factorable(model, inputs, keep),
                 taps=spaced(taps(model, inputs), MOST),
                 batch_norm=any(isinstance(part, BATCH_NORM) for part in model.modules()))
