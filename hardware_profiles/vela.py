"""Arm's Vela compiler as the cost of an int8 .tflite on an Ethos-U: cycles, time, memory, CPU fallback.

Compiler estimates, not silicon. Vela never fails on a network that does not fit the NPU: it leaves operators
to the host CPU, does not count their time, and reports 0 s for a float network with exit code 0; so what it
says is checked here. It runs as a process of its own (0.2 s): it prints, sets the recursion limit, and
compiles in C++. https://pypi.org/project/ethos-u-vela/
"""

import csv
import re
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from dataclasses import dataclass
from importlib.metadata import version as installed
from importlib.util import find_spec
from pathlib import Path

from ..errors import GateError, MissingExtraError, ProfileError, unknown
from .backend import Vela

CONFIG = "Arm/vela.ini"  # the named sets that ship with Vela
ACCELERATORS = (
    "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512",
    "ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048",
)
LEAST_NPU_SHARE = 0.9  # of the operators
WEIGHTED = re.compile(r"conv|fullyconnected|fully_connected|matmul", re.IGNORECASE)
TIMEOUT_S = 600.0
KIB = 1024


@dataclass(frozen=True, slots=True)
class Compiled:
    """One inference by Vela's estimate. Time and cycles are those of the NPU; `cpu_ops` come on top.

    `sram_bytes` is the peak of what lives in SRAM, `dram_bytes` and `flash_bytes` what is kept in either:
    the weights, and in dedicated modes the activations too. Operators are those after Vela's rewriting,
    as "Conv2D relu_1".
    """

    latency_ms: float
    cycles_npu: int
    cycles_total: int
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    npu_ops: tuple[str, ...]
    cpu_ops: tuple[str, ...]

    @property
    def npu_share(self) -> float:
        """Of the operators, 0-1."""
        return len(self.npu_ops) / max(1, len(self.npu_ops) + len(self.cpu_ops))


def missing() -> str | None:
    """What to install, or None."""
    return None if _ini() else "pip install 'pared[npu]'"


def version() -> str:
    """Of Vela. Raises MissingExtraError."""
    _check_installed()
    return installed("ethos-u-vela")


def compile(tflite: bytes, backend: Vela) -> Compiled:
    """What Vela says of the file on that accelerator, system and memory.

    Raises MissingExtraError: Vela is not installed. ProfileError: it does not know the accelerator, the
    system configuration or the memory mode, or they do not go together. GateError: it refuses the file, or
    leaves so much of it to the CPU that its time says nothing.
    """
    check(backend)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.tflite").write_bytes(tflite)
        text = _run(folder, backend)
        summary = _table(folder, "model_summary_*.csv", text)
        layers = _table(folder, "model_per-layer.csv", text)
    compiled = _compiled(summary[0], layers)
    _check_complete(compiled, text)
    _check_plausible(compiled)
    return compiled


def check(backend: Vela) -> None:
    """Raises ProfileError unless Vela knows all three names and they belong together."""
    _check_installed()
    if backend.accelerator not in ACCELERATORS:
        raise ProfileError(unknown("Ethos-U accelerator", backend.accelerator, ACCELERATORS))
    family, ini = "Ethos_" + backend.accelerator.split("-")[1].upper(), _config()
    systems = [name for name in _names(ini, "System_Config") if name.startswith(f"{family}_")]
    # Vela itself compiles a U55 at the clock and the buses of a U85 without a word.
    if backend.system_config not in systems:
        kind = f"system configuration of {backend.accelerator}"
        raise ProfileError(unknown(kind, backend.system_config, systems))
    modes = [name for name in _names(ini, "Memory_Mode") if _can_write(ini, backend.system_config, name)]
    if backend.memory_mode not in modes:
        raise ProfileError(unknown(f"memory mode of {backend.system_config}", backend.memory_mode, modes))


def _run(folder: str, backend: Vela) -> str:
    """What Vela printed."""
    command = [sys.executable, "-m", "ethosu.vela", "model.tflite", "--config", CONFIG,
               "--accelerator-config", backend.accelerator, "--system-config", backend.system_config,
               "--memory-mode", backend.memory_mode, "--verbose-performance", "--output-dir", "."]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise GateError(f"Vela took more than {TIMEOUT_S:.0f} s") from error
    if "ConfigOptionError" in done.stderr:
        raise ProfileError(f"{backend.system_config} with {backend.memory_mode}: {_last_line(done.stderr)}")
    if done.returncode:
        raise GateError(f"Vela refuses the file: {_last_line(done.stderr or done.stdout)}")
    return done.stdout


def _table(folder: str, pattern: str, text: str) -> list[dict[str, str]]:
    """The rows of the file that Vela wrote; `text` is what it printed."""
    path = next(Path(folder).glob(pattern), None)
    if path is None:
        raise GateError(f"Vela wrote no {pattern}: {text.strip()[-400:]}")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _compiled(row: dict[str, str], layers: list[dict[str, str]]) -> Compiled:
    def stored(*areas: str) -> int:
        return round(sum(float(row[f"{area}_memory_used"]) for area in areas) * KIB)

    return Compiled(
        latency_ms=float(row["inference_time"]) * 1e3,
        cycles_npu=round(float(row["cycles_npu"])),
        cycles_total=round(float(row["cycles_total"])),
        sram_bytes=stored("sram"),
        dram_bytes=stored("dram"),
        flash_bytes=stored("on_chip_flash", "off_chip_flash"),
        npu_ops=_operators(layers, "NPU"),
        cpu_ops=_operators(layers, "CPU"),
    )


def _operators(layers: list[dict[str, str]], place: str) -> tuple[str, ...]:
    # What is left to the CPU is a "Passthrough" to Vela: only the original operator tells what it was.
    kind = "NNG Operator" if place == "NPU" else "Original Operator"
    return tuple(f"{row[kind]} {row['Name']}" for row in layers if row["Target"] == place)


def _check_complete(compiled: Compiled, text: str) -> None:
    """Raises GateError unless as many operators are named as Vela counted on the CPU."""
    count = re.search(r"^CPU operators = (\d+)", text, re.MULTILINE)
    if count is None or int(count[1]) != len(compiled.cpu_ops):
        raise GateError(f"Vela's list of CPU operators cannot be read: {text.strip()[-400:]}")


def _check_plausible(compiled: Compiled) -> None:
    """A time that leaves most of the work out is no time."""
    share, left = compiled.npu_share, ", ".join(compiled.cpu_ops[:5])
    if heavy := [name for name in compiled.cpu_ops if WEIGHTED.match(name.split()[0])]:
        raise GateError(f"Vela leaves {heavy[0]!r} to the CPU, and its time out; NPU share {share:.0%}")
    if share < LEAST_NPU_SHARE:
        raise GateError(f"only {share:.0%} of the operators run on the NPU; on the CPU: {left}")
    if compiled.latency_ms <= 0 or min(compiled.cycles_npu, compiled.cycles_total) <= 0:
        raise GateError("Vela reports no NPU cycles: nothing of the file runs on the NPU")


def _check_installed() -> None:
    if need := missing():
        raise MissingExtraError(f"an Ethos-U profile needs Vela: {need}")


def _ini() -> Path | None:
    spec = find_spec("ethosu")
    places = spec.submodule_search_locations if spec else None
    paths = [Path(place) / "config_files" / CONFIG for place in places or ()]
    return next((path for path in paths if path.exists()), None)


def _config() -> ConfigParser:
    path, parser = _ini(), ConfigParser()
    assert path is not None
    parser.read(path)
    return parser


def _names(ini: ConfigParser, kind: str) -> list[str]:
    """The sets of that kind in vela.ini."""
    return [name.partition(".")[2] for name in ini.sections() if name.startswith(f"{kind}.")]


def _can_write(ini: ConfigParser, system: str, mode: str) -> bool:
    """Whether the mode keeps activations in a memory that is not flash on that system."""
    section = ini[f"Memory_Mode.{mode}"]
    arena = ini[section["inherit"]] if "inherit" in section else section
    port = arena["arena_mem_area"].lower()  # axi0 or axi1
    return "Flash" not in ini[f"System_Config.{system}"][f"{port}_port"]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "no message"
