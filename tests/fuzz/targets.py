"""One function for each kind of input: bytes in, and nothing may come out but a ParedError.

Both engines call the same functions: Hypothesis in `test_fuzz.py`, both in `benchmarks/fuzz.py`.
"""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from place import Place
from rich.console import Console
from rich.markup import render
from valid import SMALL

from pared.errors import ParedError
from pared.evaluators.artifact import Store
from pared.evaluators.devices.table import TableDevice
from pared.evaluators.runtimes import runtime
from pared.hardware_profiles import graph, load
from pared.hardware_profiles.liveness import activation_peak_bytes
from pared.hardware_profiles.predict import predict
from pared.hardware_profiles.profile import HardwareProfile
from pared.search import cache as trainings
from pared.search import config, console, measurements, sensing, status
from pared.search import run as run_room
from pared.search import study as book
from pared.search.candidate import Candidate
from pared.search.inherit import inherited
from pared.search.run import Run
from pared.spaces.recipe import from_json
from pared.spaces.sensitivity import from_json as sensitivity_from_json

Target = Callable[[bytes, Place], None]
KERNELS = graph.read(SMALL)
PAGES = 100  # one report for so many journals: it takes as long as all the rest


def run_file(data: bytes, place: Place) -> None:
    """As the file of a new search, as that of a run, and as a value of `--set`."""
    (place.run / "run.yaml").write_bytes(data)
    try:
        read = config.read(place.run / "run.yaml")
        assert config.build(config.plain.plain(config.dump(read)), {}, "again", place.run) == read
        book.objectives(read)
        _shown(Run(place.run))
    finally:
        place.restored("run.yaml")
        config.override(f"search.seed={data.decode(errors='replace')}")


def profile(data: bytes, place: Place) -> None:
    path = place.run / "profiles" / "lab.yaml"
    path.write_bytes(data)
    try:
        found = load.load(path)
        path.write_text(load.dump(found))
        assert load.load(path) == found
        _predicted(found)
        if found.backend.kind == "table":
            TableDevice(found).check()
        console.profiles_table([found])
        _shown(Run(place.run))
    finally:
        place.restored("profiles/lab.yaml")


def journal(data: bytes, place: Place) -> None:
    """Everything that reads a run, and what it shows to people."""
    (place.run / "journal.log").write_bytes(data)
    run = Run(place.run)
    try:
        book.found(place.run)
        _printed("\n".join(console.status_lines(status.status(place.run))))
        _shown(run)
        _exported(run.candidates, place)
        inherited(place.run)
        run.is_over(12)
    finally:
        if crc32(data) % PAGES == 0:
            run.report()


def card(data: bytes, place: Place) -> None:
    """The card beside a file, and that of the sensitivities."""
    run = _run(place.run)
    run.__dict__.pop("sensitivity", None)  # of the case before
    sha = run.baseline.sha256
    names = (f"artifacts/{sha}.json", "artifacts/sensitivity-0.json")
    for name in names:
        (place.run / name).write_bytes(data)
    try:
        if found := run.sensitivity:
            for table in console.sensitivity_tables(found):
                _printed(table)
            sensitivity_from_json(json.loads(json.dumps(found.to_json())))
        _exported([run.baseline], place)
        if crc32(data) % PAGES == 0:
            run.report()
        Store(str(place.run / "artifacts")).get_card(sha)
    finally:
        place.restored(*names)


def onnx_file(data: bytes, place: Place) -> None:
    """Everything that reads a file, and one inference."""
    problems = [problem for read in (_kernels, activation_peak_bytes, _inference)
                if (problem := _refusal(read, data))]
    if problems:
        raise problems[0]


def recipe(data: bytes, place: Place) -> None:
    found = from_json(data.decode(errors="surrogateescape"))
    assert from_json(found.json) == found and found.digest and found.label.encode()


def table(data: bytes, place: Place) -> None:
    """Measurements that join a run."""
    (place.tmp / "lab.csv").write_bytes(data)
    try:
        _shown(measurements.add(place.run, place.tmp / "lab.csv", "host-cpu"))
    finally:
        place.restored("run.yaml")


def cached(data: bytes, place: Place) -> None:
    """An entry of the cache; what follows its head is taken for arrays. A damaged one is a miss."""
    (place.tmp / "entry").write_bytes(data)
    kept = trainings.Cache(str(place.tmp))
    kept.arrays("entry")
    kept.put("own", data)
    kept.arrays("own")
    sensing._kept(kept, "own")


def live(data: bytes, place: Place) -> None:
    """What a driver tells of itself while it runs."""
    (place.run / "status.json").write_bytes(data)
    (place.run / "owner").write_bytes(data)
    try:
        found = status.status(place.run)
        json.dumps(found)
        _printed("\n".join(console.status_lines(found)))
    finally:
        place.restored("status.json", "owner")


KINDS: dict[str, Target] = {
    "run_file": run_file, "profile": profile, "journal": journal, "card": card, "onnx_file": onnx_file,
    "recipe": recipe, "table": table, "cached": cached, "live": live,
}


@cache
def _run(folder: Path) -> Run:
    """For kinds that leave the run itself as it is."""
    return Run(folder)


@lru_cache(maxsize=16)
def _config(path: Path, *contents: bytes) -> config.RunConfig:
    return config.read(path)


def _remembered(path: Path, *changes: Any) -> config.RunConfig:
    """A run file that did not change is read once: it takes longer than a journal."""
    if any(value is not None for each in changes for value in each.values()):
        return config.read(path, *changes)
    lab = path.parent / "profiles" / "lab.yaml"
    return _config(path, path.read_bytes(), lab.read_bytes())


@contextmanager
def remembering() -> Iterator[None]:
    """For the time of one case: other tests of the same process read run files as they are."""
    before, run_room.read = run_room.read, _remembered
    try:
        yield
    finally:
        run_room.read = before


def _shown(run: Run) -> None:
    """What `front` and `pick` print."""
    run.counts()
    for part in (*console.front_tables(run), console.best_line(run)):
        _printed(part)
    for name, trial in ((None, None), (run.config.names[0], None), (None, 0), (None, 1), (None, 2)):
        with suppress(ParedError):
            chosen = run.pick(name, trial=trial, max_drop=1.0)
            _printed("\n".join(console.picked_lines(chosen)))
            json.dumps(chosen.to_json())


def _exported(candidates: list[Candidate], place: Place) -> None:
    for candidate in candidates:
        with suppress(ParedError):
            candidate.export(place.out)


def _printed(part: object) -> None:
    if isinstance(part, str):
        str(render(part)).encode()
        return
    text = io.StringIO()
    Console(file=text, width=180).print(part, highlight=False)
    text.getvalue().encode()


def _predicted(found: HardwareProfile) -> None:
    for dtype in found.precisions:
        predict(KERNELS, found, dtype)


def _refusal(read: Callable[[bytes], object], data: bytes) -> ParedError | None:
    try:
        read(data)
    except ParedError as error:
        return error
    return None


def _kernels(data: bytes) -> None:
    kernels = graph.read(data)
    host = load.load("host-cpu")
    if kernels and graph.dtype(kernels) in host.precisions:
        predict(kernels, host, graph.dtype(kernels))


def _inference(data: bytes) -> None:
    session = runtime("onnxruntime").load(data, 1)
    session.run((np.zeros((min(4, session.fixed_batch or 1), 1, 4, 4), np.float32),))
