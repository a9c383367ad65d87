"""What is installed and what this machine can do."""

import os
from importlib.metadata import PackageNotFoundError, version
from shutil import which
from typing import Any

from rich.table import Table

from ..evaluators.runtimes import RUNTIMES, timed
from ..hardware_profiles import vela
from ..hardware_profiles.backend import Command
from ..hardware_profiles.load import known, load
from ..hardware_profiles.profile import HardwareProfile

CORE = ("torch", "onnx", "onnxruntime", "onnxscript", "torch-pruning", "optuna", "ray", "numpy", "plotly")
Gaps = dict[str, str | None]  # runtime -> what to install, None when it can be used


def examine() -> dict[str, Any]:
    """Versions, runtimes with what each is missing, profiles with whether they can be used here."""
    packages = {name: _version(name) for name in CORE}
    gaps = {name: engine.missing() for name, engine in RUNTIMES.items()}
    return {
        "ok": None not in packages.values(),
        "cpus": os.cpu_count(),
        "packages": packages,
        "runtimes": {name: gap or "ready" for name, gap in gaps.items()},
        "providers": {name: _provider(name, gap) for name, gap in gaps.items()},
        "profiles": {name: usable(load(name), gaps) for name in known()},
    }


def table(found: dict[str, Any]) -> Table:
    made = Table(title=f"pared doctor: {found['cpus']} CPUs", title_justify="left")
    for name in ("what", "name", "provider", "state"):
        made.add_column(name)
    for name, state in found["packages"].items():
        made.add_row("package", name, "", state or f"[red]missing: pip install {name}[/]")
    for name, state in found["runtimes"].items():
        provider = found["providers"][name]
        made.add_row("runtime", name, provider["provider"], _runtime_state(state, provider))
    for name, state in found["profiles"].items():
        made.add_row("profile", name, "", state.replace("[", r"\["))
    return made


def usable(profile: HardwareProfile, gaps: Gaps) -> str:
    """'ready', with the kind of figure where that is no measurement made here; else what is missing."""
    backend = profile.backend
    if backend.kind == "analytic":
        return "ready (predicted)"
    if backend.kind == "vela":
        return vela.missing() or "ready (compiled)"
    if backend.kind == "node":
        return f"ready where a node of the Ray cluster offers {backend.resource}"
    if isinstance(backend, Command):
        return _reachable(backend)
    return _on_host(profile.runtime.name, gaps)


def _on_host(runtime: str, gaps: Gaps) -> str:
    if runtime not in gaps:
        return f"no runtime {runtime!r}"
    if not timed(runtime):
        return f"runtime {runtime} tells whether a file runs, not how fast"
    return gaps[runtime] or "ready"


def _reachable(backend: Command) -> str:
    """Only whether the program that reaches the device is here; the device is asked when a run starts."""
    if backend.transport == "local" or which(backend.transport):
        return f"ready when {backend.host or 'this machine'} answers"
    return f"{backend.transport} is not on the PATH"


def _provider(runtime: str, gap: str | None) -> dict[str, Any]:
    engine = RUNTIMES[runtime]
    version = None if gap else engine.version()
    return {"provider": engine.provider, "version": version, "timed": timed(runtime)}


def _runtime_state(state: str, provider: dict[str, Any]) -> str:
    if provider["version"] is None:
        return f"[yellow]{state}[/]".replace("pared[", r"pared\[")
    return f"{provider['version']}" + ("" if provider["timed"] else " (checks only, no latency)")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
