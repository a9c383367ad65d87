"""What is installed and what this machine can do."""

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.table import Table

from ..evaluators.runtimes import RUNTIMES
from ..hardware_profiles.load import known, load

CORE = ("torch", "onnx", "onnxruntime", "onnxscript", "torch-pruning", "optuna", "ray", "numpy", "plotly")


def examine() -> dict[str, Any]:
    """Versions, runtimes with what each is missing, profiles with whether they can be used here."""
    packages = {name: _version(name) for name in CORE}
    runtimes = {name: engine.missing() for name, engine in RUNTIMES.items()}
    profiles = {name: _usable(load(name).runtime.name, runtimes) for name in known()}
    return {"ok": None not in packages.values(), "cpus": os.cpu_count(), "packages": packages,
            "runtimes": {name: gap or "ready" for name, gap in runtimes.items()}, "profiles": profiles}


def table(found: dict[str, Any]) -> Table:
    made = Table(title=f"pared doctor: {found['cpus']} CPUs", title_justify="left")
    for name in ("what", "name", "state"):
        made.add_column(name)
    for name, state in found["packages"].items():
        made.add_row("package", name, state or f"[red]missing: pip install {name}[/]")
    for what in ("runtimes", "profiles"):
        for name, state in found[what].items():
            made.add_row(what[:-1], name, state)
    return made


def _usable(runtime: str, runtimes: dict[str, str | None]) -> str:
    if runtime not in runtimes:
        return f"no runtime {runtime!r}"
    return runtimes[runtime] or "ready"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
