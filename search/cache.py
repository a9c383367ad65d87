"""What costs time and depends on its content alone, kept for every later run: trainings above all.

A key is the sha256 of all that a result depends on (`spaces.fingerprint`), so that a wrong hit is
impossible; an entry holds the sha256 of its own bytes, so that a damaged one is a miss. No pickle is
written or read.
"""

import io
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BudgetError, RunError
from ..evaluators.folder import Folder, Info
from .budget import parse

Arrays = Mapping[str, NDArray[Any]]
ENTRY = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.[0-9a-f]{32}")  # the latter was not written to its end
RUN_ONLY = "run"  # in place of a URL: nothing is shared with other runs


@dataclass(frozen=True, slots=True)
class Entry:
    """What was kept, and plain notes on it."""

    content: bytes
    notes: Mapping[str, Any] = field(default_factory=dict)


def key(kind: str, *parts: object) -> str:
    """sha256 over a kind of result and everything it depends on, as plain values."""
    return sha256(json.dumps([kind, *parts], sort_keys=True).encode()).hexdigest()


def home() -> str:
    """Where runs keep their cache unless told otherwise."""
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pared")


class Cache:
    """A folder of entries on any file system that fsspec speaks, shared by workers and by runs.

    Keeping never fails a trial: what cannot be written is only missing later. Raises UserError: no such
    file system.
    """

    def __init__(self, url: str) -> None:
        self._folder = Folder(url)
        self.url = self._folder.url

    def get(self, name: str) -> Entry | None:
        """None where it is not kept, or is damaged."""
        try:
            raw = self._folder.read(name) or b""
            head, _, content = raw.partition(b"\n")
            notes = json.loads(head)
            whole = notes.pop("sha256") == sha256(content).hexdigest()
        except (RunError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return None
        if not whole:
            return None
        self._folder.touch(name)
        return Entry(content, notes)

    def put(self, name: str, content: bytes, **notes: Any) -> None:
        head = json.dumps({**notes, "sha256": sha256(content).hexdigest()}).encode()
        with suppress(RunError):
            self._folder.write(name, head + b"\n" + content)

    def arrays(self, name: str) -> dict[str, NDArray[Any]] | None:
        """What `put_arrays` kept."""
        entry = self.get(name)
        try:
            return unpacked(entry.content) if entry else None
        except ValueError:
            return None

    def put_arrays(self, name: str, arrays: Arrays) -> None:
        self.put(name, packed(arrays))

    def entries(self) -> list[Info]:
        """Every entry, the longest unused first. Raises RunError: out of reach."""
        found = [file for file in self._folder.files() if ENTRY.fullmatch(file.name)]
        return sorted(found, key=lambda file: file.time)

    def gc(self, limit_bytes: float) -> tuple[int, int]:
        """Drops what was unused longest until the rest fits; (entries, bytes) dropped.

        What a worker reads at that moment is a miss for it, nothing more.
        """
        rows = self.entries()
        over, dropped, freed = sum(row.size_bytes for row in rows) - limit_bytes, 0, 0
        for row in rows:
            if freed >= over:
                break
            with suppress(RunError):
                self._folder.remove(row.name)
                dropped, freed = dropped + 1, freed + row.size_bytes
        return dropped, freed


def packed(arrays: Arrays) -> bytes:
    """As an .npz file."""
    buffer = io.BytesIO()
    named: Any = {f"_{name}": array for name, array in arrays.items()}  # savez owns the name `file`
    np.savez(buffer, **named)
    return buffer.getvalue()


def unpacked(content: bytes) -> dict[str, NDArray[Any]]:
    """Raises ValueError where something else than plain arrays is in it."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name[1:]: stored[name] for name in stored.files}
    except Exception as error:  # each of zip, deflate and the header of an array has errors of its own
        raise ValueError(f"no arrays: {error}") from error


def summary(url: str | None) -> dict[str, Any]:
    """Of the cache at a URL, or of the usual one."""
    cache = Cache(url or home())
    sizes = [entry.size_bytes for entry in cache.entries()]
    return {"url": cache.url, "entries": len(sizes), "megabytes": sum(sizes) / 1e6}


def cut(url: str | None, size: str) -> dict[str, Any]:
    """Cuts it to a size such as 10GB; `0` empties it. Raises BudgetError: no size."""
    empty = size.strip() == "0"
    limit = parse("1B" if empty else size, "size")
    if limit.relative:
        raise BudgetError(f"--size {size!r}: write 500MB or 10GB, or 0 for nothing")
    cache = Cache(url or home())
    dropped, freed = cache.gc(0 if empty else limit.limit)
    return {"url": cache.url, "dropped": dropped, "megabytes": freed / 1e6}
