"""Files on a device, each under its sha256: what is there already is not copied again."""

from hashlib import sha256
from uuid import uuid4

from ...errors import MetricError
from .transport import Done, Transport

HASHES = """for file; do { sha256sum "$file" || shasum -a 256 "$file"; } 2>/dev/null || echo absent; done"""


class Shelf:
    """One folder. Nothing is deleted: the folder is the user's to empty."""

    def __init__(self, transport: Transport, folder: str) -> None:
        self._transport, self._folder = transport, folder
        self._seen: set[str] = set()  # paths that were right when this process last looked

    def place(self, content: bytes, suffix: str = ".onnx") -> str:
        """The path of the file, copied there unless it is there. Raises MetricError."""
        path = self.path(content, suffix)
        if path not in self._seen and not self._right(path):
            self._copy(content, path)
        self._seen.add(path)
        return path

    def path(self, content: bytes, suffix: str = ".onnx") -> str:
        return f"{self._folder}/{sha256(content).hexdigest()}{suffix}"

    def check(self, *paths: str) -> None:
        """Raises MetricError when a file is not what its name says any more."""
        if not self._right(*paths):
            self._seen.clear()
            raise MetricError(f"a file on {self._transport.name} was changed on the way: it is no longer "
                              "what was copied there")

    def shell(self, script: str, *arguments: str) -> Done:
        """A few lines of sh on the device. Raises MetricError when they fail."""
        done = self._transport.run(["sh", "-c", script, "pared", *arguments])
        if done.code:
            raise MetricError(f"{self._transport.name}: {done.told}")
        return done

    def _copy(self, content: bytes, path: str) -> None:
        part = f"{path}.{uuid4().hex}.part"
        self._transport.push(content, part)
        # Moved at once, whoever else copies it now.
        found = self.shell(f'mv -f "$1" "$2"; shift; {HASHES}', part, path)
        if found.out.split()[0] != digest(path):
            raise MetricError(f"{path} on {self._transport.name} is not what was copied there")

    def _right(self, *paths: str) -> bool:
        lines = self.shell(HASHES, *paths).out.split("\n")
        return [line.split()[0] for line in lines if line.strip()] == [digest(path) for path in paths]


def digest(path: str) -> str:
    """The sha256 that a path on the shelf is named by."""
    return path.rsplit("/", 1)[1].split(".")[0]
