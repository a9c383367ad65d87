"""The model card: what lies beside a file to say what it is."""

from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..spaces.recipe import from_json
from .records import Job, Outcome

FIGURES = ("sha256", "metrics", "drop", "size_only", "absent", "shipped", "providers", "notes")


def card(job: Job, outcome: Outcome, subject: str, untouched: str) -> dict[str, Any]:
    """Of the file that came out of the job. `untouched`: sha256 of the file that it is compared with."""
    recipe = from_json(job.recipe)
    return {"recipe": recipe.json, "recipe_digest": recipe.digest, "label": recipe.label, "trial": job.trial,
            "subject": subject, "untouched": untouched, "versions": versions(),
            **{name: getattr(outcome, name) for name in FIGURES}}


@cache
def versions() -> dict[str, str]:
    """Of everything whose version decides what a file contains or how fast it runs."""
    names = ("torch", "onnx", "onnxruntime", "onnxscript", "torch-pruning", "numpy",
             "ai-edge-litert", "ethos-u-vela", "openvino")
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):  # the last three are extras
            found[name] = version(name)
    return found
