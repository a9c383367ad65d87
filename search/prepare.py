"""What is done once before the first trial: the untouched model as a file, its scores, its lessons."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ..errors import CandidateError, ExportError, GateError, RunError, SubjectError
from ..evaluators import accuracy
from ..evaluators.artifact import Store
from ..evaluators.export import export
from ..evaluators.lane import Lane
from ..evaluators.latency import THOROUGH
from ..evaluators.runtimes import runtime
from ..hardware_profiles.liveness import activation_peak_bytes
from ..hardware_profiles.profile import HardwareProfile
from ..spaces.fingerprint import code, content
from ..spaces.keep import resolve
from ..spaces.materials import Teacher, from_arrays, to_arrays
from ..spaces.passes import Scope
from ..spaces.subject import Array, Subject, example_inputs
from ..spaces.survey import survey
from ..spaces.teaching import remembered
from .cache import Cache, key
from .cost import Measure
from .records import Report, Untouched

SAME = 1e-4  # of the largest output: above it, the model is not the one the run started with


@dataclass(frozen=True)
class Prepared:
    """Everything that trials need and that can be had again from the subject."""

    scope: Scope
    untouched: Untouched
    scores: Mapping[str, NDArray[np.float64]]  # split -> (n,)
    keep: tuple[str, ...]
    content: str  # sha256 of all that a training depends on beside its recipe


def prepare(
    subject: Subject,
    profiles: tuple[HardwareProfile, ...],
    store_url: str,
    known: Untouched | None,
    threads: int,
    keep: tuple[str, ...],
    students: tuple[str, ...],
    measure: Measure,
    report: Report,
) -> Prepared:
    """`known` is what an earlier driver of the same run found; its file is used again.

    Raises SubjectError when the model does not export, RunError when the model or the validation
    data are not those the run started with.
    """
    report("preparing")
    with Lane().working():
        store, inputs = Store(store_url), example_inputs(subject)
        file = store.get(known.sha256) if known else _exported(subject, inputs)
        session = runtime("onnxruntime").load(file, threads)
        if known:
            _check_same_model(subject, session.run(tuple(a[: session.fixed_batch] for a in inputs)), inputs)
        kept = resolve(keep, subject.model())
        scope = survey(subject.model(), inputs, onnx.load_from_string(file), profiles, kept, students,
                       subject)
        scores = {name: accuracy.scores(session, subject.split(name), subject)
                  for name in ("validation", "test")}
        known_by = content(subject)
    found = known or _figures(file, scores["validation"], profiles, store, inputs, measure)
    if not np.isclose(found.accuracy, scores["validation"].mean(), atol=1e-9):
        raise RunError(f"the validation data changed: the untouched model scored {found.accuracy:.4f} "
                       f"when the run started, now {scores['validation'].mean():.4f}")
    return Prepared(scope, found, scores, kept, known_by)


def teach(
    subject: Subject, content: str, cache: str, taps: tuple[str, ...], kinds: tuple[str, ...],
    measure: Measure, report: Report,
) -> Teacher:
    """What all trials are taught by: the untouched model's outputs, and those `kinds` of its taps."""
    report("remembering what the model says")
    torch.set_num_threads(os.cpu_count() or 1)  # nothing else runs yet
    kept, name = Cache(cache), key("teacher", code(), content, taps, kinds)
    if known := kept.arrays(name):
        return from_arrays(known)
    with Lane().working():
        teacher = remembered(subject.model(), subject.split("train"), taps, kinds)
    kept.put_arrays(name, to_arrays(teacher))
    return teacher


def _exported(subject: Subject, inputs: tuple[Array, ...]) -> bytes:
    try:
        return bytes(export(subject.model(), inputs).SerializeToString())
    except (ExportError, GateError) as error:
        raise SubjectError(str(error)) from error


def _figures(
    file: bytes,
    scores: NDArray[np.float64],
    profiles: tuple[HardwareProfile, ...],
    store: Store,
    inputs: tuple[Array, ...],
    measure: Measure,
) -> Untouched:
    """A device that cannot run the untouched model (float, on an int8-only one) has a reason instead."""
    latencies, absent = {}, {}
    for profile in profiles:
        try:
            latencies[profile.name] = measure(profile.name, file, file, inputs, THOROUGH).latency_ms
        except CandidateError as error:
            absent[profile.name] = str(error)
    artifact = store.put(file)
    return Untouched(artifact.sha256, artifact.size_bytes, float(scores.mean()), latencies,
                     activation_peak_bytes(file), absent)


def _check_same_model(subject: Subject, stored: Array, inputs: tuple[Array, ...]) -> None:
    with torch.inference_mode():
        result = subject.model()(*(torch.from_numpy(np.array(a[: len(stored)])) for a in inputs))
    ours = (result if isinstance(result, torch.Tensor) else result[0]).numpy()
    if np.abs(ours - stored).max() > SAME * max(1.0, float(np.abs(stored).max())):
        raise RunError("the model is not the one this run started with: its outputs differ; "
                       "start a new run for new weights")
