"""What costs time and depends on its content alone, kept for every later run: trainings above all.

A key is the sha256 of all that a result depends on (`spaces.fingerprint`), so that a wrong hit is
impossible; an entry holds the sha256 of its own bytes, so that a damaged one is a miss. No pickle is
written or read.
"""

import io
import json
import os
import re
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from fsspec.core import url_to_fs
from numpy.typing import NDArray

from ..errors import BudgetError, UserError
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

    Keeping never fails a trial: what cannot be written is only missing later.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = url_to_fs(url)

    def get(self, name: str) -> Entry | None:
        """None where it is not kept, or is damaged."""
        try:
            raw: bytes = self._fs.cat_file(self._path(name))
            head, _, content = raw.partition(b"\n")
            notes = json.loads(head)
            whole = notes.pop("sha256") == sha256(content).hexdigest()
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return None
        if not whole:
            return None
        self._touch(name)
        return Entry(content, notes)

    def put(self, name: str, content: bytes, **notes: Any) -> None:
        head = json.dumps({**notes, "sha256": sha256(content).hexdigest()}).encode()
        partial = f"{self._root}/.{name}.{uuid.uuid4().hex}"
        with suppress(OSError):
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(partial, head + b"\n" + content)
            self._fs.mv(partial, self._path(name))

    def arrays(self, name: str) -> dict[str, NDArray[Any]] | None:
        """What `put_arrays` kept."""
        entry = self.get(name)
        try:
            return unpacked(entry.content) if entry else None
        except ValueError:
            return None

    def put_arrays(self, name: str, arrays: Arrays) -> None:
        self.put(name, packed(arrays))

    def entries(self) -> list[tuple[str, int, float]]:
        """(path, bytes, time of last use) of every entry, the longest unused first."""
        if not self._fs.exists(self._root):
            return []
        rows = [(info["name"], int(info["size"] or 0), _time(info))
                for info in self._fs.ls(self._root, detail=True)
                if ENTRY.fullmatch(info["name"].rpartition("/")[2])]
        return sorted(rows, key=lambda row: row[2])

    def gc(self, limit_bytes: float) -> tuple[int, int]:
        """Drops what was unused longest until the rest fits; (entries, bytes) dropped.

        What a worker reads at that moment is a miss for it, nothing more.
        """
        rows = self.entries()
        over, dropped, freed = sum(size for _, size, _ in rows) - limit_bytes, 0, 0
        for path, size, _ in rows:
            if freed >= over:
                break
            with suppress(OSError):
                self._fs.rm_file(path)
                dropped, freed = dropped + 1, freed + size
        return dropped, freed

    def _touch(self, name: str) -> None:
        if "file" in self._fs.protocol:  # elsewhere an entry's time is that of its writing
            with suppress(OSError):
                os.utime(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


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


def opened(url: str) -> Cache:
    """Raises UserError: no such file system."""
    try:
        return Cache(url)
    except (ValueError, ImportError) as error:
        raise UserError(f"cache {url!r}: {error}; a folder, or a URL such as s3://bucket/folder") from error


def summary(url: str | None) -> dict[str, Any]:
    """Of the cache at a URL, or of the usual one."""
    cache = opened(url or home())
    sizes = [size for _, size, _ in cache.entries()]
    return {"url": cache.url, "entries": len(sizes), "megabytes": sum(sizes) / 1e6}


def cut(url: str | None, size: str) -> dict[str, Any]:
    """Cuts it to a size such as 10GB; `0` empties it. Raises BudgetError: no size."""
    empty = size.strip() == "0"
    limit = parse("1B" if empty else size, "size")
    if limit.relative:
        raise BudgetError(f"--size {size!r}: write 500MB or 10GB, or 0 for nothing")
    cache = opened(url or home())
    dropped, freed = cache.gc(0 if empty else limit.limit)
    return {"url": cache.url, "dropped": dropped, "megabytes": freed / 1e6}


def _time(info: Mapping[str, Any]) -> float:
    found = info.get("mtime") or info.get("LastModified") or info.get("created") or time.time()
    return float(found if isinstance(found, int | float) else found.timestamp())
