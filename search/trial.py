"""One trial, from recipe to measurements and the card of its file. Plain functions: no Ray, no Optuna.

The cost of the finished graph is known before anything is trained; what breaks a budget stops there.
"""

import os
import socket
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from time import perf_counter, time
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ..errors import CandidateError, MetricError, RunError
from ..evaluators import accuracy
from ..evaluators.artifact import Store, check_faithful, check_tuned
from ..evaluators.devices import SHIPPED, Reading
from ..evaluators.export import export
from ..evaluators.lane import Lane, Turn
from ..evaluators.latency import QUICK, THOROUGH
from ..evaluators.measurement import Measurement
from ..evaluators.runtimes import runtime
from ..hardware_profiles.profile import HardwareProfile
from ..spaces.materials import Materials, Teacher
from ..spaces.passes import FILE, MODULE, PASSES, TRAINING, TUNING, _onnx
from ..spaces.passes._base import Step
from ..spaces.recipe import Recipe, from_json
from ..spaces.subject import SplitName, Subject, example_inputs
from .budget import broken, refused
from .card import card
from .cost import Cost, Measure, Metrics, cost, latency
from .limits import nowhere
from .logs import kept
from .records import Job, Outcome, Report
from .trainings import Trainings

NO_MEMORY = "can't allocate memory"  # of a RuntimeError by torch's allocator

Decide = Callable[[Mapping[str, float], Mapping[str, Measurement]], dict[str, float]]


@dataclass(frozen=True)
class Bench:
    """What all trials of a run share."""

    subject: Subject
    profiles: tuple[HardwareProfile, ...]
    store: str
    threads: int
    seed: int
    untouched: str  # sha256 of the untouched model's file
    untouched_scores: Mapping[str, NDArray[np.float64]]  # split -> (n,)
    untouched_ms: Mapping[str, float]  # profile -> latency, where it runs
    limits: Mapping[str, float]  # metric -> upper limit
    teacher: Teacher | None = None
    keep: tuple[str, ...] = ()  # paths of modules that no pass may change
    students: Mapping[str, Callable[[], torch.nn.Module]] = field(default_factory=dict)
    content: str = ""  # sha256 of all that a training depends on beside its recipe
    cache: str = ""  # URL; none: nothing is looked up or kept
    train_threads: int = 1
    logs: str = ""  # URL of a folder; none: nothing is kept


def run(job: Job, bench: Bench, measure: Measure, report: Report) -> Outcome:
    """The outcome of one job; whatever a candidate does wrong ends up in it as a reason.

    Raises MemoryError, as with more memory it may do; RunError: the files of the run are out of reach.
    """
    torch.set_num_threads(bench.train_threads)
    began = time()
    with kept(bench.logs, job, report) as told:
        outcome = _outcome(job, bench, measure, told)
    if outcome.state == "complete":
        own = card(job, outcome, bench.subject.name, bench.untouched)
        Store(bench.store).put_card(outcome.sha256, own)
    return replace(outcome, node=socket.gethostname(), pid=os.getpid(), began=began)


def _outcome(job: Job, bench: Bench, measure: Measure, report: Report) -> Outcome:
    try:
        return _Trial(job, bench, measure, report).outcome()
    except (RunError, MemoryError):
        raise  # the store is gone, or the room is too small: not this candidate's fault
    except CandidateError as error:
        return Outcome("failed", str(error))
    except Exception as error:  # the user's model, loss or metric may raise anything
        if isinstance(error, torch.OutOfMemoryError) or NO_MEMORY in str(error):
            raise MemoryError from error
        traceback.print_exc()  # to the attempt's log
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} (at {place.filename}:{place.lineno})"
        return Outcome("failed", reason[:1000])


class _Trial:
    def __init__(self, job: Job, bench: Bench, measure: Measure, report: Report) -> None:
        self.job, self.bench, self.measure, self.report = job, bench, measure, report
        self.recipe = from_json(job.recipe)
        self.store, self.lane = Store(bench.store), Lane()
        self.inputs = example_inputs(bench.subject)
        self.trainings = Trainings(bench)
        # The stored float file to start from, where there is one.
        self.known = job.trained or (None if self.recipe.prefix.steps else bench.untouched)
        self.trained, self.train_s, self.trained_s, self.saved_s = "", 0.0, 0.0, job.trained_s
        self.notes: list[str] = []

    def outcome(self) -> Outcome:
        if self.job.file:
            return self._known(self.store.get(self.job.file))
        self._look_up()
        recovers = bool(self.recipe.training_steps) and self.known is None
        needs_training = recovers or bool(self.recipe.tuning_steps)
        with self.lane.working():
            self.report("building")
            graph = self._float()
            file = self._finished(graph, tuned=False, final=not needs_training)
        found = self._cost(file)
        if refusal := self._refusal(found, refused if needs_training else broken):
            return refusal
        if needs_training:
            started = perf_counter()
            with self.lane.working() as turn:
                self.report("training")
                graph = self._recovered(turn) if recovers else graph
                file = self._finished(graph, tuned=True, final=True, turn=turn)
            self.train_s = perf_counter() - started
            found = self._cost(file)
        with self.lane.working():
            self.report("scoring")
            return self._scored(file, found)

    def _known(self, file: bytes) -> Outcome:
        """Of a file that another run has made: only its cost here is new."""
        found = self._cost(file)
        if refusal := self._refusal(found, broken):
            return refusal
        with self.lane.working():
            self.report("scoring")
            return self._scored(file, found)

    def _refusal(self, found: Cost, decide: Decide) -> Outcome | None:
        """Raises MetricError where no device runs the file."""
        if not self.recipe.steps:
            return None  # the untouched model is always there to be compared with
        if not found.readings:
            raise MetricError("; ".join(f"{name}: {why}" for name, why in found.absent.items()))
        over = self._over(found, decide)
        if not nowhere(over, found.readings):
            return None
        return Outcome("refused", _reason(over, found, self.bench.limits), broken=over,
                       metrics=_plain(found.metrics), absent=dict(found.absent))

    def _over(self, found: Cost, decide: Decide) -> dict[str, float]:
        """Metric -> share over its limit; a budget on a device that does not run the file counts as 1."""
        absent = {f"latency_ms@{name}": 1.0 for name in found.absent}
        return decide(self.bench.limits, found.metrics) | {
            metric: share for metric, share in absent.items() if metric in self.bench.limits}

    def _module(self) -> torch.nn.Module:
        """The model after its module passes, untrained."""
        model = self.bench.subject.model()
        for name, step in self.recipe.module_steps:
            model = MODULE[name].apply(step, model, self._materials())
        return model

    def _look_up(self) -> None:
        """Takes a training that an earlier run has done."""
        found = None if self.known or not self.recipe.training_steps else self.trainings.file(self.recipe)
        if found:
            self.known = self.trained = self.store.put(found.content).sha256
            self.saved_s = self.trained_s = float(found.notes["train_s"])
            self.notes += [*found.notes["notes"], f"its training of {self.saved_s:.0f} s was in the cache"]

    def _float(self) -> onnx.ModelProto:
        """The float graph before training: stored already, the untouched file itself, or exported now."""
        if self.known:
            return onnx.load_from_string(self.store.get(self.known))
        untrained = Recipe(tuple(step for _, step in self.recipe.module_steps))
        if found := self.trainings.file(untrained):
            return onnx.load_from_string(found.content)
        graph = export(self._module(), self.inputs)
        self.trainings.keep_file(untrained, graph)
        return graph

    def _recovered(self, turn: Turn) -> onnx.ModelProto:
        """The float graph after training, stored for the recipes that share it."""
        started, model = perf_counter(), self._module()
        for name, step in self.recipe.training_steps:
            for leg in self.trainings.left(self.recipe, TRAINING[name].legs(step), model):
                model = TRAINING[name].train(leg, model, self._materials(turn))
                self.trainings.keep_weights(self.recipe, leg, model)
        graph = export(model, self.inputs)
        self.trained = self.store.put(graph.SerializeToString()).sha256
        self.trained_s = perf_counter() - started
        self.trainings.keep_file(self.recipe.prefix, graph, self.trained_s, self.notes)
        return graph

    def _materials(self, turn: Turn | None = None) -> Materials:
        def on_step(done: float) -> None:
            self.report(f"training {done:.0%}")
            if turn:
                turn.step_aside()

        bench = self.bench
        return Materials(bench.subject, bench.seed, bench.teacher, bench.keep, bench.students, on_step,
                         self.notes.append)

    def _finished(
        self, graph: onnx.ModelProto, tuned: bool, final: bool, turn: Turn | None = None
    ) -> bytes:
        """The file after its file passes, each held to what it promised; trained inside if `tuned`."""
        if not self.recipe.file_steps:
            return self._untouched(graph)
        origin = graph
        for name, step in self.recipe.file_steps:
            self.report(name)
            if name in FILE:
                graph = self._rewritten(name, step, graph, final)
            elif tuned:
                graph = self._tuned(name, step, graph, origin, turn)
        return bytes(graph.SerializeToString())

    def _rewritten(self, name: str, step: Step, before: onnx.ModelProto, final: bool) -> onnx.ModelProto:
        calibration = self.bench.subject.split("calibration")
        names = [value.name for value in before.graph.input]
        data = dict(zip(names, calibration.inputs, strict=True))
        after = FILE[name].apply(step, before, data, _onnx.kept(before, self.bench.keep))
        FILE[name].check(step, before, after)
        if final:
            check_faithful(name, before, after, self.inputs, FILE[name].tolerance)
        return after

    def _tuned(
        self, name: str, step: Step, before: onnx.ModelProto, origin: onnx.ModelProto, turn: Turn | None
    ) -> onnx.ModelProto:
        after = TUNING[name].tune(step, before, origin, self._materials(turn))
        TUNING[name].check(step, before, after)
        check_tuned(name, after, self.inputs, TUNING[name].outputs(after, self.inputs))
        return after

    def _untouched(self, graph: onnx.ModelProto) -> bytes:
        """A graph that no file pass touches keeps its very bytes, so that its sha256 is the same."""
        return self.store.get(self.known) if self.known else bytes(graph.SerializeToString())

    def _cost(self, file: bytes) -> Cost:
        self.report("measuring")
        bench = self.bench
        return cost(file, self.store.get(bench.untouched), bench.untouched_ms, bench.profiles,
                    self.inputs, self.measure, QUICK)

    def _scored(self, file: bytes, found: Cost) -> Outcome:
        artifact = self.store.put(file)
        mine = _scores(file, "validation", self.bench)
        lost = accuracy.drop(self.bench.untouched_scores["validation"], mine)
        shipped, theirs = _shipped(found.readings, self.store, self.bench)
        metrics = {"accuracy": accuracy.mean(mine), **found.metrics, **theirs}
        return Outcome(
            "complete", sha256=artifact.sha256, trained=self.trained, metrics=_plain(metrics),
            drop=asdict(lost), broken=self._over(replace(found, metrics=metrics), broken),
            size_only=_size_only(self.recipe, self.bench.profiles), train_s=self.train_s,
            trained_s=self.trained_s, saved_s=self.saved_s, notes=self.notes,
            absent=dict(found.absent), shipped=shipped,
            remarks={name: list(r.notes) for name, r in found.readings.items() if r.notes},
            providers={name: dict(r.provider_share) for name, r in found.readings.items()
                       if r.provider_share})


def _shipped(
    readings: Mapping[str, Reading], store: Store, bench: Bench
) -> tuple[dict[str, str], Metrics]:
    """Files that devices run instead of the ONNX file: stored, and scored for accuracy themselves."""
    files: dict[str, str] = {}
    metrics: Metrics = {}
    known: dict[str, Measurement] = {}  # several devices may share one file
    for name, reading in readings.items():
        if reading.shipped is None:
            continue
        engine, suffix = SHIPPED
        artifact = store.put(reading.shipped, suffix)
        if artifact.sha256 not in known:
            session = runtime(engine).load(reading.shipped, bench.threads)
            scores = accuracy.scores(session, bench.subject.split("validation"), bench.subject)
            known[artifact.sha256] = accuracy.mean(scores)
        files[name], metrics[f"accuracy@{name}"] = artifact.file, known[artifact.sha256]
    return files, metrics


def final_score(digest: str, bench: Bench, measure: Measure, report: Report) -> dict[str, Any]:
    """A member of the front, once more: accuracy on the untouched test split, latency at length."""
    report("final scoring")
    store, inputs = Store(bench.store), example_inputs(bench.subject)
    file = store.get(digest)
    with Lane().working():
        mine = _scores(file, "test", bench)
    metrics = {"accuracy": accuracy.mean(mine)}
    for profile in bench.profiles:
        if profile.evidence == "measured":  # other figures do not change when they are taken again
            with suppress(CandidateError):
                reading = measure(profile.name, file, store.get(bench.untouched), inputs, THOROUGH)
                metrics[f"latency_ms@{profile.name}"] = latency(
                    reading, bench.untouched_ms.get(profile.name), profile)
    drop = accuracy.drop(bench.untouched_scores["test"], mine)
    return {"metrics": _plain(metrics), "drop": asdict(drop)}


def _scores(file: bytes, split: SplitName, bench: Bench) -> NDArray[np.float64]:
    if sha256(file).hexdigest() == bench.untouched:
        return bench.untouched_scores[split]  # the very file, scored already
    session = runtime("onnxruntime").load(file, bench.threads)
    return accuracy.scores(session, bench.subject.split(split), bench.subject)


def _size_only(recipe: Recipe, profiles: tuple[HardwareProfile, ...]) -> dict[str, list[str]]:
    named = list(zip(recipe.names, recipe.steps, strict=True))
    return {profile.name: [name for name, step in named if not profile.uses(PASSES[name].needs(step))]
            for profile in profiles}


def _reason(over: Mapping[str, float], found: Cost, limits: Mapping[str, float]) -> str:
    metrics = found.metrics
    return "; ".join((*(f"{name} {metrics[name].value:.4g} {metrics[name].unit}, "
                        f"{share:.0%} over its budget of {limits[name]:.4g}"
                        for name, share in over.items() if name in metrics),
                      *(f"{name}: {why}" for name, why in found.absent.items())))


def _plain(metrics: Metrics) -> dict[str, Any]:
    return {name: metric.to_json() for name, metric in metrics.items()}


