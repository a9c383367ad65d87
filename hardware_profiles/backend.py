"""Where the latency of a profile comes from; that alone decides what kind of figure it is.

One class a way, told apart by `kind`. What talks to the device lives in `evaluators/devices/`.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .quantity import Strict

Evidence = Literal["measured", "compiled", "predicted"]
PLACEHOLDERS = ("file", "script", "threads", "batch", "runs", "provider")  # of a command


class Analytic(Strict):
    """Predicted from the kernels of the file (`predict.py`), and measurements if it is calibrated."""

    kind: Literal["analytic"] = "analytic"


class Host(Strict):
    """Measured on the machine that the worker runs on."""

    kind: Literal["host"] = "host"


class Node(Strict):
    """Measured on a Ray node started with `--num-cpus 0 --resources '{"device:NAME": 1}'`."""

    kind: Literal["node"] = "node"
    resource: str = Field(pattern=r"^device:[\w.-]+$")


class Command(Strict):
    """Measured by a command on a device that takes files: over ssh, adb, or here (local).

    `{file}` in the command is the path of the copied model, `{script}` that of the measuring script
    that comes with pared; `{threads}`, `{batch}` and `{provider}` are the profile's, `{runs}` is how
    many inferences are wanted. The command prints one JSON object with `latency_ms` and, where it
    can, `spread`, `runs`, `runtime`, `provider_share`, `sha256`, `power_mw`, `memory_bytes`,
    `flash_bytes`. The device needs sh, flock, timeout and sha256sum (or shasum).
    """

    kind: Literal["command"] = "command"
    transport: Literal["ssh", "adb", "local"]
    host: str | None = Field(None, pattern=r"^[^-\s]\S*$", description="ssh: user@host; adb: serial number")
    port: int | None = Field(None, ge=1, le=65535)
    options: tuple[str, ...] = Field((), description="further arguments of ssh or adb, before the host")
    folder: str | None = Field(None, pattern=r"^/.", description="on the device, where files are copied to")
    command: tuple[str, ...] = (
        "python3", "{script}", "{file}", "--threads", "{threads}", "--batch", "{batch}", "--runs", "{runs}",
        "--provider", "{provider}",
    )
    timeout_s: float = Field(120.0, gt=0, allow_inf_nan=False)

    @property
    def home(self) -> str:
        """The folder; where none is given, the place of that system for files that may go."""
        return self.folder or ("/data/local/tmp/pared" if self.transport == "adb" else "/tmp/pared")

    @model_validator(mode="after")
    def _can_be_run(self) -> Self:
        if self.transport == "ssh" and self.host is None:
            raise ValueError("transport ssh needs a host: user@host")
        if not any("{file}" in word for word in self.command):
            raise ValueError("the command does not name {file}, the path of the model on the device")
        words = set(re.findall(r"\{(\w+)\}", " ".join(self.command)))
        if unknown := words - set(PLACEHOLDERS):
            raise ValueError(f"the command has {sorted(unknown)}; known: {', '.join(PLACEHOLDERS)}")
        return self


class Vela(Strict):
    """Compiled by Arm's Vela for an Ethos-U; both options are mandatory, its defaults are no device."""

    kind: Literal["vela"] = "vela"
    accelerator: str = Field(pattern=r"^ethos-u(55|65|85)-\d+$")
    system_config: str
    memory_mode: str


class Table(Strict):
    """Measured elsewhere (a device lab, a microcontroller on a desk) and looked up by artefact hash."""

    kind: Literal["table"] = "table"
    path: str = Field(
        pattern=r"^[^\x00]+$",
        description="a CSV with the columns sha256, latency_ms[, energy_uj, ram_kb], beside the profile")


Backend = Annotated[Analytic | Host | Node | Command | Vela | Table, Field(discriminator="kind")]
EVIDENCE: dict[str, Evidence] = {
    "analytic": "predicted", "host": "measured", "node": "measured", "command": "measured",
    "vela": "compiled", "table": "measured",
}
