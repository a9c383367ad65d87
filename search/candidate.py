"""A scored model file, as people and programs see it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..evaluators.accuracy import Drop
from ..evaluators.artifact import Store
from ..evaluators.measurement import Measurement
from ..spaces.recipe import Recipe
from .config import RunConfig

ARTIFACTS = "artifacts"  # folder of a run


def store_of(run: Path, config: RunConfig) -> Store:
    """The files of a run: where its `cluster.store` says, else in its own folder, wherever a worker's is."""
    named = config.cluster.store
    return Store(f"{named.rstrip('/')}/{ARTIFACTS}" if named else str((run / ARTIFACTS).resolve()))


@dataclass(frozen=True)
class Candidate:
    """A scored model file. `test` is there for members of the final front.

    `notes` and `profiles` are there for a picked one: what to know about the choice, and for which devices.
    `told` is what its passes had to say, such as a training that was rolled back.
    `store` is the URL, or the path, of the folder that its files are in.
    `absent` says on which profiles it does not run, and why; `shipped` which file runs there instead.
    """

    run: Path
    store: str
    trial: int
    recipe: Recipe
    sha256: str
    metrics: Mapping[str, Measurement]
    drop: Drop
    size_only: Mapping[str, list[str]]
    test: Measurement | None = None
    test_drop: Drop | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    shipped: Mapping[str, str] = field(default_factory=dict)
    remarks: Mapping[str, list[str]] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def profile(self) -> str:
        """What a picked one was picked for."""
        return ", ".join(self.profiles)

    @property
    def path(self) -> Path:
        """The file. Raises RunError where it is in a store that has no paths."""
        folder = self.store.removeprefix("file://")
        if "://" in folder:
            raise RunError(f"{self.sha256}.onnx is in {folder}; `export` makes a copy of it here")
        return Path(folder) / f"{self.sha256}.onnx"

    def latency(self, profile: str) -> Measurement:
        """Raises KeyError where it is `absent`."""
        return self.metrics[f"latency_ms@{profile}"]

    def accuracy(self, profile: str) -> Measurement:
        """On the validation split, of the file that runs on that profile."""
        return self.metrics.get(f"accuracy@{profile}", self.metrics["accuracy"])

    def runs_on(self, profiles: Sequence[str]) -> bool:
        return all(f"latency_ms@{name}" in self.metrics for name in profiles)

    def slowness(self, profiles: Sequence[str]) -> float:
        """Geometric mean of the latencies in ms: a device's own speed cancels out of comparisons."""
        return math.prod(self.latency(name).value for name in profiles) ** (1 / len(profiles))

    def lost(self, profiles: Sequence[str]) -> float:
        """Validation accuracy lost on the worst of these profiles, a fraction."""
        own = self.metrics["accuracy"].value
        return self.drop.value + own - min(self.accuracy(name).value for name in profiles)

    def export(self, folder: str | Path) -> Path:
        """Copies the files, checked against their sha256, and the card; returns the model's path."""
        store, target = Store(self.store), Path(folder)
        files = {"model.onnx": store.get(self.sha256)}
        for profile, name in self.shipped.items():
            files[f"{profile}{Path(name).suffix}"] = store.get_file(name)
        if store.has_card(self.sha256):
            files["model.json"] = json.dumps(store.get_card(self.sha256), indent=1).encode()
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (target / name).write_bytes(content)
        except OSError as error:
            raise RunError(f"cannot write to {target}: {error}") from error
        return target / "model.onnx"

    def to_json(self) -> dict[str, Any]:
        """The POINT of the command line's JSON."""
        point: dict[str, Any] = {
            "trial": self.trial,
            "recipe": json.loads(self.recipe.json),
            "recipe_digest": self.recipe.digest,
            "label": self.recipe.label,
            "artifact": self._place(f"{self.sha256}.onnx"),
            "sha256": self.sha256,
            "metrics": {name: metric.to_json() for name, metric in self.metrics.items()},
            "drop": asdict(self.drop),
            "size_only": dict(self.size_only),
            "absent": dict(self.absent),
            "shipped": {name: self._place(file) for name, file in self.shipped.items()},
            "notes": list(self.told),
        }
        if self.test and self.test_drop:
            point["test"] = {"accuracy": self.test.to_json(), "drop": asdict(self.test_drop)}
        return point

    def _place(self, file: str) -> str:
        """Relative to the run directory where it is in there, else in full."""
        inside = self.store == str((self.run / ARTIFACTS).resolve())
        return f"{ARTIFACTS if inside else self.store}/{file}"
