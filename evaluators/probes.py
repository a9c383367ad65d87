"""Files whose latencies tell most about a device: variants of the user's own model, and micro-nets.

Calibrating on variants of one's own model leaves 1 to 10 % of error inside the search space, on a zoo
of other nets 20 to 35 %; the micro-nets keep the classes of kernels apart.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import onnx
import torch
from torch import nn

from ..errors import CandidateError, ConfigError
from ..hardware_profiles.profile import Dtype, HardwareProfile
from ..spaces.materials import Materials
from ..spaces.passes import FILE, MODULE
from ..spaces.passes.int8_static import Int8Static
from ..spaces.subject import Array, Subject, example_inputs
from ..spaces.survey import survey
from .export import export

RATIOS = (0.0, 0.3, 0.5, 0.7, 0.8)
CALIBRATION = 32  # examples: ranges do not matter for a latency
WIDTH, SIDE = 64, 14  # channels and pixels of the micro-nets
DTYPES: tuple[Dtype, ...] = ("fp32", "int8")


@dataclass(frozen=True)
class Probe:
    """A file to measure, and what to feed it, each input (batch, ...)."""

    name: str
    dtype: Dtype
    file: bytes
    inputs: tuple[Array, ...]

    @property
    def sha256(self) -> str:
        return sha256(self.file).hexdigest()


def probes(profile: HardwareProfile, subject: Subject | None) -> list[Probe]:
    """Eight to ten files for each number format that the device runs; the untouched model first.

    Without a subject, the micro-nets alone. Raises ConfigError when the model gives too few.
    """
    inputs = example_inputs(subject) if subject else _default()
    calibration = subject.split("calibration").take(slice(0, CALIBRATION)).inputs if subject else inputs
    graphs = [*(_variants(profile, subject, inputs) if subject else ()),
              *((name, export(module, inputs)) for name, module in _micro(inputs))]
    if len(graphs) < 3:
        raise ConfigError("profile-device needs a model that can be narrowed, or one that takes images: "
                          f"only {len(graphs)} files could be made")
    found = []
    for dtype in (d for d in DTYPES if d in profile.precisions):
        for name, graph in graphs:
            typed = graph if dtype == "fp32" else _int8(graph, calibration, profile)
            found.append(Probe(f"{name} {dtype}", dtype, typed.SerializeToString(), inputs))
    return found


def _variants(
    profile: HardwareProfile, subject: Subject, inputs: tuple[Array, ...]
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The model at several widths, untrained: its latency does not depend on its weights."""
    model, prune = subject.model(), MODULE["prune"]
    graph = export(model, inputs)
    yield "model", graph
    scope = survey(model, inputs, graph, (profile,))
    if prune.refused(scope):
        return
    for ratio in RATIOS[1:]:
        step = prune.decode({**{f"ratio.{stage}": ratio for stage in scope.stages}, "criterion": "l2"}, scope)
        try:
            narrow = prune.apply(step, subject.model(), Materials(subject))
        except CandidateError:  # too narrow for the profile's step: the wider ones do
            return
        yield f"model, {1 - ratio:.0%} of its width", export(narrow, inputs)


def _micro(inputs: tuple[Array, ...]) -> Iterator[tuple[str, nn.Module]]:
    """One kernel class each, for models that take one image; they take the same image."""
    if len(inputs) != 1 or inputs[0].ndim != 4 or inputs[0].dtype != np.float32:
        return
    channels, side = inputs[0].shape[1], min(inputs[0].shape[2:])
    torch.manual_seed(0)
    for name, layers in _LAYERS.items():
        stem = nn.Conv2d(channels, WIDTH, 1, stride=max(1, side // SIDE))
        body = (part for _ in range(4) for part in (*layers(), nn.ReLU()))
        yield name, nn.Sequential(stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    head = (part for _ in range(4) for part in (nn.LazyLinear(8 * WIDTH), nn.ReLU()))
    dense = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), *head)
    dense(torch.from_numpy(np.array(inputs[0])))  # settles the lazy widths
    yield "fully connected", dense.eval()


_LAYERS: dict[str, Callable[[], list[nn.Module]]] = {
    "convolutions 3x3": lambda: [nn.Conv2d(WIDTH, WIDTH, 3, padding=1)],
    "convolutions 1x1": lambda: [nn.Conv2d(WIDTH, 2 * WIDTH, 1), nn.ReLU(), nn.Conv2d(2 * WIDTH, WIDTH, 1)],
    "depthwise": lambda: [nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH) for _ in range(2)],
}


def _int8(graph: onnx.ModelProto, calibration: Sequence[Array], profile: HardwareProfile) -> onnx.ModelProto:
    names = [value.name for value in graph.graph.input]
    step = Int8Static("minmax", profile.activations, True, "all")
    return FILE["int8_static"].apply(step, graph, dict(zip(names, calibration, strict=True)))


def _default() -> tuple[Array, ...]:
    return (np.random.default_rng(0).random((2, 3, 32, 32), np.float32),)
