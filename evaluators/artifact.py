"""The exported file: content-addressed, with its card, on any file system that fsspec speaks.

And its gate: each pass says in its `check` what a file must hold; here the rewritten file is run
against the one before it.
"""

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import onnx

from ..errors import GateError, RunError, shown
from ..spaces.subject import Array
from .folder import Folder
from .runtimes import runtime

FILE = re.compile(r"[0-9a-f]{64}(\.[a-z0-9]{1,12})?")
TUNED = 0.1  # of the outputs' norm: rounding in integers and in floats differs by single steps


@dataclass(frozen=True, slots=True)
class Artifact:
    """An exported file, known by its content."""

    sha256: str
    size_bytes: int
    suffix: str = ".onnx"

    @property
    def file(self) -> str:
        return f"{self.sha256}{self.suffix}"


class Store:
    """A folder of artefacts and their cards. Writing twice writes once; a file is whole or absent.

    Its methods raise RunError where the folder cannot be read or written.
    """

    def __init__(self, url: str) -> None:
        self._folder = Folder(url)
        self.url = self._folder.url

    def put(self, content: bytes, suffix: str = ".onnx") -> Artifact:
        artifact = Artifact(sha256(content).hexdigest(), len(content), suffix)
        if not self._folder.has(artifact.file):
            self._folder.write(artifact.file, content)
        return artifact

    def get(self, digest: str, suffix: str = ".onnx") -> bytes:
        """The file of that sha256. Raises RunError when it is missing or its content changed."""
        name = f"{digest}{suffix}"
        if not FILE.fullmatch(name):
            raise RunError(f"{shown(name)} names no artefact of {self.url}: they are SHA256.SUFFIX")
        content = self._there(name)
        if sha256(content).hexdigest() != digest:
            raise RunError(f"artefact {name} in {self.url} was changed since it was scored")
        return content

    def get_file(self, name: str) -> bytes:
        """The same by the name of its file, SHA256.SUFFIX."""
        digest, dot, suffix = name.partition(".")
        return self.get(digest, dot + suffix)

    def put_card(self, digest: str, card: dict[str, Any]) -> None:
        """The model card, beside its file: recipe, subject, versions, metrics."""
        self._folder.write(f"{digest}.json", json.dumps(card, indent=1, sort_keys=True).encode())

    def has_card(self, digest: str) -> bool:
        return self._folder.has(f"{digest}.json")

    def get_card(self, digest: str) -> dict[str, Any]:
        """Raises RunError: missing, or no card."""
        try:
            card = json.loads(self._there(f"{digest}.json"))
        except (ValueError, RecursionError) as error:
            raise RunError(f"the card of {shown(digest)} in {self.url} cannot be read: {error}") from error
        if not isinstance(card, dict):
            raise RunError(f"the card of {shown(digest)} in {self.url} is {shown(card)}, not an object")
        return card

    def cards(self, prefix: str) -> list[str]:
        """Of the cards whose name begins so: what they are a card of, the latest first."""
        found = [file for file in self._folder.files()
                 if file.name.startswith(prefix) and file.name.endswith(".json")]
        return [file.name.removesuffix(".json") for file in sorted(found, key=lambda file: -file.time)]

    def _there(self, name: str) -> bytes:
        content = self._folder.read(name)
        if content is None:
            raise RunError(f"artefact {name} is missing from {self.url}")
        return content


def check_faithful(
    name: str, before: onnx.ModelProto, after: onnx.ModelProto, inputs: tuple[Array, ...], tolerance: float
) -> None:
    """The rewritten graph computes about what it computed before.

    `tolerance`: largest error of the outputs, as a share of their norm, that is no bug. Raises GateError.
    """
    error = _distance(_run(before, inputs), _run(after, inputs))
    if not error <= tolerance:
        raise GateError(f"{name} changed the outputs by {error:.2g} of their norm, more than {tolerance}")


def check_tuned(name: str, graph: onnx.ModelProto, inputs: tuple[Array, ...], expected: Array) -> None:
    """The file computes what the trained module does; `expected` are its outputs. Raises GateError."""
    got = _run(graph, inputs)
    error = _distance(expected[: len(got)], got)
    if not error <= TUNED:
        raise GateError(f"{name}: the file differs from what was trained by {error:.2g} of the outputs' norm")


def _run(graph: onnx.ModelProto, inputs: tuple[Array, ...]) -> Array:
    session = runtime("onnxruntime").load(graph.SerializeToString(), 1)
    return session.run(tuple(array[: session.fixed_batch] for array in inputs))


def _distance(want: Array, got: Array) -> float:
    return float(np.linalg.norm(want - got) / max(1e-12, float(np.linalg.norm(want))))
