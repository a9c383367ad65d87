"""A scored model file, as people and programs see it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..evaluators.accuracy import Drop
from ..evaluators.artifact import Store
from ..evaluators.measurement import Measurement
from ..spaces.recipe import Recipe

ARTIFACTS = "artifacts"  # folder of a run


@dataclass(frozen=True)
class Candidate:
    """A scored model file. `test` is there for members of the final front.

    `notes` and `profile` are there for a picked one: what to know about the choice, and for which device.
    """

    run: Path
    trial: int
    recipe: Recipe
    sha256: str
    metrics: Mapping[str, Measurement]
    drop: Drop
    size_only: Mapping[str, list[str]]
    test: Measurement | None = None
    test_drop: Drop | None = None
    profile: str = ""
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.run / ARTIFACTS / f"{self.sha256}.onnx"

    def latency(self, profile: str) -> Measurement:
        return self.metrics[f"latency_ms@{profile}"]

    def export(self, folder: str | Path) -> Path:
        """Copies the file, checked against its sha256, and its card; returns the model's path."""
        content = Store(str(self.run / ARTIFACTS)).get(self.sha256)
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            (target / "model.onnx").write_bytes(content)
            card = self.run / ARTIFACTS / f"{self.sha256}.json"
            if card.exists():
                shutil.copyfile(card, target / "model.json")
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
            "artifact": str(self.path.relative_to(self.run)),
            "sha256": self.sha256,
            "metrics": {name: metric.to_json() for name, metric in self.metrics.items()},
            "drop": asdict(self.drop),
            "size_only": dict(self.size_only),
        }
        if self.test and self.test_drop:
            point["test"] = {"accuracy": self.test.to_json(), "drop": asdict(self.test_drop)}
        return point
