"""Scores a file again and holds the figures against those the run reported."""

from dataclasses import dataclass
from statistics import median

import onnx

from ..errors import CandidateError, GateError, RunError
from ..evaluators import accuracy
from ..evaluators.artifact import Store
from ..evaluators.devices import SHIPPED
from ..evaluators.lane import Lane
from ..evaluators.latency import THOROUGH, compare
from ..evaluators.runtimes import runtime
from ..hardware_profiles.optimised import parsed
from ..hardware_profiles.profile import HardwareProfile
from ..spaces.subject import Subject, example_inputs
from .candidate import Candidate

TOLERANCE = 0.10  # of a latency ratio


@dataclass(frozen=True)
class Check:
    """One file, scored again. `problem` is empty when everything holds."""

    trial: int
    sha256: str
    accuracy: float | None = None
    reported_accuracy: float | None = None
    ratio: float | None = None
    reported_ratio: float | None = None
    problem: str = ""


def verify(
    candidate: Candidate, untouched: str, subject: Subject, profiles: tuple[HardwareProfile, ...]
) -> Check:
    """sha256 and accuracy must be identical, the ratio on the first device that is here within 10 %.

    `untouched`: a sha256.
    """
    here = next((p for p in profiles if p.backend.kind == "host" and candidate.runs_on([p.name])), None)
    try:
        return _checked(candidate, untouched, subject, here)
    except (RunError, CandidateError) as error:  # the file is missing, changed, or never was a model
        return Check(candidate.trial, candidate.sha256, problem=str(error))


def _checked(
    candidate: Candidate, untouched: str, subject: Subject, profile: HardwareProfile | None
) -> Check:
    store = Store(candidate.store)
    file = store.get(candidate.sha256)
    _check_model(file)
    session = runtime("onnxruntime").load(file, 1)
    again = float(accuracy.scores(session, subject.split("validation"), subject).mean())
    reported = candidate.metrics["accuracy"].value
    problems = [] if again == reported else [f"accuracy {again:.5f}, reported {reported:.5f}"]
    problems += _shipped(candidate, store, subject)
    if profile is None:
        return Check(candidate.trial, candidate.sha256, again, reported, problem="; ".join(problems))
    was = candidate.latency(profile.name).ratio or 1.0
    now = _ratio(file, store.get(untouched), was, subject, profile)
    if abs(now / was - 1) > TOLERANCE:
        problems.append(f"latency ratio {now:.3f}, reported {was:.3f}")
    return Check(candidate.trial, candidate.sha256, again, reported, now, was, "; ".join(problems))


def _check_model(file: bytes) -> None:
    """Raises GateError where the file is not ONNX by its standard."""
    try:
        onnx.checker.check_model(parsed(file))
    except onnx.checker.ValidationError as error:
        raise GateError(f"not valid ONNX: {str(error)[:400]}") from error


def _shipped(candidate: Candidate, store: Store, subject: Subject) -> list[str]:
    """The files that devices run instead: their sha256, and their own accuracy."""
    problems, (engine, _) = [], SHIPPED
    for profile, name in candidate.shipped.items():
        session = runtime(engine).load(store.get_file(name), 1)
        again = float(accuracy.scores(session, subject.split("validation"), subject).mean())
        if again != (reported := candidate.accuracy(profile).value):
            problems.append(f"accuracy on {profile} {again:.5f}, reported {reported:.5f}")
    return problems


def _ratio(
    file: bytes, reference: bytes, was: float, subject: Subject, profile: HardwareProfile
) -> float:
    """The ratio now; when it differs, the median of three decides whether machine or figure is wrong."""

    def measured() -> float:
        return compare(file, reference, example_inputs(subject), profile.runtime, Lane(), THOROUGH).ratio

    now = measured()
    return now if abs(now / was - 1) <= TOLERANCE else median((now, measured(), measured()))
