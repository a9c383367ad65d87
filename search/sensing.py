"""Sensitivities of a run's model: measured once, kept with its artefacts under what they depend on."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import onnx

from ..errors import RunError
from ..evaluators.artifact import Store
from ..evaluators.export import export
from ..evaluators.lane import Lane
from ..evaluators.subjects.find import find
from ..spaces import _layerwise
from ..spaces.keep import resolve
from ..spaces.passes import PASSES
from ..spaces.sensitivity import Sensitivity, from_json
from ..spaces.subject import Subject, example_inputs
from .cache import Cache, home
from .config import read
from .cost import Measure
from .records import Report
from .run import Run

USERS = ("prune", "mixed", "mixed_int8")  # techniques that decide by sensitivities
Watch = Callable[[float], None]  # the share done, 0-1


def wanted(wish: Mapping[str, bool | Mapping[str, object]]) -> bool:
    """Whether a space narrowed like this has a technique that decides by sensitivities."""
    return any(name in PASSES and _decides(wish.get(name, True)) for name in USERS)


def sense(
    subject: Subject, store: str, cache: str, untouched: str, keep: tuple[str, ...], measure: Measure,
    report: Report,
) -> Sensitivity:
    """On a worker, before the first trial. `untouched` is the sha256 of the untouched model's file."""
    report("measuring how much each layer minds")
    shares: list[float] = []

    def tell(done: float) -> None:
        if not shares or done - shares[-1] >= 0.05:
            shares.append(done)
            report(f"measuring how much each layer minds, {done:.0%}")

    with Lane().working():
        file = Store(store).get(untouched)
        return found(subject, file, keep, Store(store), Cache(cache), tell)


def of(path: Path, watch: Watch) -> Sensitivity:
    """Of a run directory, or of a run file (its run's store is used where there is one).

    Raises UserError: no run and no run file there, or a subject that does not load or export.
    """
    if path.is_dir():
        return _of_run(Run(path), watch)
    config = read(path)
    subject = find(config.model, path.parent)
    keep = resolve(config.keep, subject.model())
    file = export(subject.model(), example_inputs(subject)).SerializeToString()
    return found(subject, file, keep, None, Cache(home()), watch)


def found(
    subject: Subject, file: bytes, keep: tuple[str, ...], store: Store | None, cache: Cache, watch: Watch
) -> Sensitivity:
    """From the cache when these very figures were measured before, else measured; `store` gets a card."""
    examples = subject.split("calibration").inputs
    name = _layerwise.key(subject.model(), file, examples, keep)
    known = _kept(cache, name)
    measured = known or _layerwise.measure(
        subject.model(), onnx.load_from_string(file), examples, keep, watch)
    if not known:
        cache.put(name, json.dumps(measured.to_json()).encode())
    if store:
        store.put_card(f"sensitivity-{name}", {"untouched": sha256(file).hexdigest(), **measured.to_json()})
    return measured


def _kept(cache: Cache, name: str) -> Sensitivity | None:
    entry = cache.get(name)
    with suppress(RunError, ValueError, RecursionError):  # one that cannot be read is measured again
        return from_json(json.loads(entry.content)) if entry else None
    return None


def _of_run(run: Run, watch: Watch) -> Sensitivity:
    if run.sensitivity:
        return run.sensitivity
    subject, store = find(run.config.model, run.path), run.store
    keep = resolve(run.config.keep, subject.model())
    return found(subject, store.get(run.untouched.sha256), keep, store, Cache(home()), watch)


def _decides(wish: bool | Mapping[str, object]) -> bool:
    """Pruning decides by them in one of its allocations only."""
    if isinstance(wish, bool) or "allocation" not in wish:
        return wish is not False
    chosen = wish["allocation"]
    return "sensitivity" in (chosen if isinstance(chosen, list) else [chosen])
