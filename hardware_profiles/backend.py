"""Where the latency of a profile comes from; that alone decides what kind of figure it is.

One class a way, told apart by `kind`. What talks to the device lives in `evaluators/devices/`.
"""

from typing import Annotated, Literal

from pydantic import Field

from .quantity import Strict

Evidence = Literal["measured", "compiled", "predicted"]


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
    that comes with pared, `{threads}` the profile's threads. The command prints one JSON object with
    `latency_ms` and, where it can, `power_mw`, `runtime`, `provider_share`.
    """

    kind: Literal["command"] = "command"
    transport: Literal["ssh", "adb", "local"]
    host: str | None = Field(None, description="ssh: user@host; adb: serial number")
    port: int | None = Field(None, ge=1, le=65535)
    options: tuple[str, ...] = Field((), description="further arguments of ssh and scp")
    folder: str = Field("/tmp/pared", description="on the device, where files are copied to")
    command: tuple[str, ...] = ("python3", "{script}", "{file}", "--threads", "{threads}")
    timeout_s: float = Field(120.0, gt=0)


class Vela(Strict):
    """Compiled by Arm's Vela for an Ethos-U; both options are mandatory, its defaults are no device."""

    kind: Literal["vela"] = "vela"
    accelerator: str = Field(pattern=r"^ethos-u(55|65|85)-\d+$")
    system_config: str
    memory_mode: str


Backend = Annotated[Analytic | Host | Node | Command | Vela, Field(discriminator="kind")]
EVIDENCE: dict[str, Evidence] = {
    "analytic": "predicted", "host": "measured", "node": "measured", "command": "measured",
    "vela": "compiled",
}
