"""A folder of files on any file system that fsspec speaks: local, S3, Google Cloud Storage and others.

Credentials are the storage library's own matter (its environment, its files): no URL holds any.
Nor is a failing request tried again here: botocore is asked for `PATIENCE`, gcsfs is patient by itself.
"""

import os
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import time
from typing import Any

from fsspec.core import url_to_fs

from ..errors import ConfigError, MissingExtraError, RunError, first_line

# Where a put is whole or absent by itself, and a rename would be a copy.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs"})
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}  # protocol -> extra of pared
PATIENCE = {"mode": "standard", "max_attempts": 8}  # botocore's: about half a minute
SECRET = re.compile(r"://[^@]*:[^@]*@|[?&;][^=]*(password|passwd|secret|token|key)[^=]*=", re.IGNORECASE)
PROBE = ".pared-probe"


@dataclass(frozen=True, slots=True)
class Info:
    """What a listing says of a file; `time` is of its writing, in seconds since 1970."""

    name: str
    size_bytes: int
    time: float


class Folder:
    """Files by name; each is whole or absent, and what was written last is what is read.

    Its methods raise RunError with the reason that the storage library gave. `patient`: whether a
    request waits out a server that is away for some seconds.
    """

    def __init__(self, url: str, patient: bool = True) -> None:
        """Nothing is reached yet. Raises ConfigError, or MissingExtraError with what to install."""
        self.url = url.rstrip("/")
        self._fs, self._root = _file_system(self.url, patient)
        spoken = self._fs.protocol
        spoken = {spoken} if isinstance(spoken, str) else set(spoken)
        self.is_local = "file" in spoken
        self._renames = not spoken & OBJECT_STORES

    def read(self, name: str) -> bytes | None:
        """None where it is not there."""
        try:
            content: bytes = self._tried("read", name, lambda: self._fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        try:
            self._tried("write", name, lambda: self._put(self._path(name), content))
        except FileNotFoundError as error:
            raise self._error("write", name, error) from error

    def has(self, name: str) -> bool:
        found: bool = self._tried("look for", name, lambda: self._fs.exists(self._path(name)))
        return found

    def remove(self, name: str) -> None:
        """One that is not there is removed already."""
        with suppress(FileNotFoundError):
            self._tried("remove", name, lambda: self._fs.rm_file(self._path(name)))

    def files(self) -> list[Info]:
        """Those that lie in it, not in folders below; none where there is no such folder."""
        try:
            rows = self._tried("list", "the files", lambda: self._fs.ls(self._root, detail=True))
        except FileNotFoundError:
            return []
        return [Info(row["name"].rpartition("/")[2], int(row["size"] or 0), _written(row))
                for row in rows if row["type"] == "file"]

    def touch(self, name: str) -> None:
        """Notes that it was used, where a file has a time that can be set."""
        if self.is_local:
            with suppress(OSError):
                os.utime(self._path(name))

    def check(self) -> None:
        """Writes and reads a small file. Raises RunError: out of reach, no such bucket, not allowed."""
        self.write(PROBE, b"pared")
        if self.read(PROBE) != b"pared":
            raise RunError(f"{self.url} does not give back what was written to it")
        with suppress(RunError):  # who may not remove can still keep a run there
            self.remove(PROBE)

    def _put(self, path: str, content: bytes) -> None:
        if not self._renames:
            self._fs.pipe_file(path, content)
            return
        folder, _, name = path.rpartition("/")
        partial = f"{folder}/.{name}.{uuid.uuid4().hex}"
        self._fs.makedirs(folder, exist_ok=True)
        self._fs.pipe_file(partial, content)
        self._fs.mv(partial, path)

    def _tried(self, doing: str, name: str, call: Callable[[], Any]) -> Any:
        """Raises FileNotFoundError, and RunError for everything else that goes wrong."""
        try:
            return call()
        except FileNotFoundError:
            raise
        except Exception as error:  # each library has a tree of errors of its own
            raise self._error(doing, name, error) from error

    def _error(self, doing: str, name: str, error: Exception) -> RunError:
        reason = first_line(error) or type(error).__name__
        return RunError(f"cannot {doing} {name} in {self.url}: {reason}")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def check_secretless(url: str) -> None:
    """Raises ConfigError, which does not repeat it: a URL that holds a password or a key."""
    if SECRET.search(url):
        raise ConfigError("a URL with a password or key in it is not taken: it would end up in run files and "
                          "reports. Allowed: scheme://host/path or scheme://user@host/path, the secret in "
                          "the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                          "GOOGLE_APPLICATION_CREDENTIALS, PGPASSWORD)")


def _file_system(url: str, patient: bool) -> tuple[Any, str]:
    """Without a cache of listings: other processes write there too."""
    check_secretless(url)
    scheme = url.partition("://")[0] if "://" in url else "file"
    options = {"config_kwargs": {"retries": PATIENCE}} if patient and EXTRAS.get(scheme) == "s3" else {}
    try:
        fs, root = url_to_fs(url, use_listings_cache=False, **options)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        raise MissingExtraError(f"{url}: {error}" + (f"; pip install 'pared[{extra}]'" if extra else "")
                                ) from error
    except ValueError as error:
        raise ConfigError(f"{url}: {error}; allowed: a folder, or a URL such as s3://bucket/folder"
                          ) from error
    return fs, root


def _written(row: dict[str, Any]) -> float:
    found = row.get("mtime") or row.get("LastModified") or row.get("created") or time()
    return float(found if isinstance(found, int | float) else found.timestamp())
