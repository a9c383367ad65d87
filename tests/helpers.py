"""What several tests need that is no fixture."""

import importlib
import json
import logging
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "subjects" / "tiny.py"
PATIENT = TINY.parent / "patient.py"  # the same, whose trials take seconds
SHARED = ROOT.parent / "shared"


ALONE = {"cache": "run"}  # of `cluster`: no training is there before the test


def load_tiny() -> Any:
    """The module tests/subjects/tiny.py, imported as a user's own module is."""
    if str(TINY.parent) not in sys.path:
        sys.path.insert(0, str(TINY.parent))
    return importlib.import_module("tiny")


def materials(inputs: tuple[Any, ...], **more: Any) -> Any:
    """Materials whose subject has these inputs for every split, and the label 0."""
    from torch import nn

    import pared
    from pared.spaces.materials import Materials

    data = (inputs, [0] * len(inputs[0]))
    return Materials(pared.Classification(nn.Identity, data, data, data), **more)


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "pared", *map(str, args)]


def write_run_file(folder: Path, **changes: Any) -> Path:
    """A small run of the tiny subject: few epochs, few trials; latencies are predicted, as measuring takes longest."""
    fields: dict[str, Any] = {
        "model": f"{TINY}:subject",
        "profiles": ["rpi4-ort-cpu"],
        "space": {"recover": {"epochs": 1}},
        "search": {"trials": 12, "seed": 0},
        "cluster": {"workers": 1},  # tests run two at a time
    }
    for key, value in changes.items():
        fields[key] = {**fields[key], **value} if isinstance(fields.get(key), dict) else value
    path = folder / "run.yaml"
    path.write_text(json.dumps(fields))  # JSON is YAML
    return path


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class S3:
    """An S3-compatible server on loopback; what it holds outlives a stop and a start."""

    bucket = "runs"

    def __init__(self) -> None:
        self.port = 0
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_ACCESS_KEY_ID": "nobody",
                "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()

    def make_bucket(self) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{self.bucket}", method="PUT")
        urllib.request.urlopen(request).close()
