"""The copy of a run in its store: what the driver writes follows there every few seconds.

From it any machine reads the run (`at`), and another one takes it up (`restore`). Files lie as in the run
directory; the journal is in segments, `journal/OFFSET.log`, of which only the last one still grows.
"""

import json
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from ..errors import RunError
from ..evaluators.folder import Folder
from .config import RunConfig
from .journal import NAME, whole
from .lease import Lease
from .records import keep
from .run import CONFIG, STATUS, Run
from .study import IN_DATABASE, begun

EVERY_S = 3.0
SEGMENTS, SEGMENT = "journal", re.compile(r"[0-9]{12}\.log")
FULL = 256 * 1024  # bytes, after which a segment is closed
PROFILES, PROFILE = "profiles", re.compile(r"[\w@-][\w.@-]*\.(yaml|csv)")
COPY = "copy.json"  # in the run directory: how far the copy is


class Mirror:
    """Copies in a thread of its own: a store that is slow or away neither holds up nor ends a search."""

    def __init__(self, run: Path, url: str) -> None:
        self._run, self.folder = run, Folder(url, patient=False)
        self.lease = Lease(self.folder)
        self._sent: dict[str, bytes] = {}
        self._begin, self._length = 0, 0  # of the segment that grows
        self._time, self._lost, self._ending = time.time(), False, Event()
        self._thread = Thread(target=self._follow, name="mirror", daemon=True)

    def go_on(self) -> None:
        """Finds out how far the copy is. Raises RunError where it is no copy of this run directory."""
        copied, self._begin = journal(self.folder)
        self._length = len(copied) - self._begin
        path = self._run / NAME
        ours = whole(path.read_bytes() if path.exists() else b"")
        if not ours.startswith(copied):
            what = "is ahead of" if copied.startswith(ours) else "is of another run than, or went on without,"
            raise RunError(f"the copy in {self.folder.url} {what} {self._run}; "
                           f"`pared fetch {self.folder.url} DIR` brings it here, to be resumed in DIR")

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raises RunError: another driver has taken over, as this one gave no sign of life for long."""
        if self._lost:
            raise RunError(f"another driver has taken over {self.folder.url}; this one stops. "
                           f"`pared status {self.folder.url}` shows how it goes on there")

    def close(self) -> None:
        """Copies what is left, within seconds."""
        self._ending.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ending.wait(EVERY_S) and not self._lost:
            self._round()
        if not self._lost:
            self._round()

    def _round(self) -> None:
        error, began = "", time.time()
        try:
            if not self.lease.renew():
                self._lost = True
                return
            self._copy()
            self._time = began
        except Exception as failure:  # shown by `pared status`, and tried again
            error = str(failure) or type(failure).__name__
        with suppress(RunError):
            keep(self._run / COPY, json.dumps({"url": self.folder.url, "time": self._time, "error": error,
                                               "bytes": self._begin + self._length}))

    def _copy(self) -> None:
        """Nothing before the study is made: a run that failed to start leaves no copy."""
        if not begun(self._run):
            return
        for name in (CONFIG, IN_DATABASE, *_profiles(self._run), STATUS):
            path = self._run / name
            content = path.read_bytes() if path.exists() else b""
            if content and self._sent.get(name) != content:
                self.folder.write(name, content)
                self._sent[name] = content
        if (self._run / NAME).exists():
            self._copy_journal()

    def _copy_journal(self) -> None:
        with (self._run / NAME).open("rb") as file:
            file.seek(self._begin)
            lines = whole(file.read())
        if len(lines) > self._length:
            self.folder.write(f"{SEGMENTS}/{self._begin:012}.log", lines)
            self._length = len(lines)
        if self._length >= FULL:
            self._begin, self._length = self._begin + self._length, 0


@contextmanager
def mirrored(run: Path, config: RunConfig, new: bool = False) -> Iterator[Callable[[], None]]:
    """Keeps the copy of a run that has a store while its driver works; use while the run is `owned`.

    Yields what the driver calls now and then: it raises RunError when another driver has taken over.
    Raises RunError: the store is out of reach, another driver is alive, or the copy is of another run.
    """
    if config.cluster.store is None:
        yield lambda: None
        return
    mirror = Mirror(run, config.cluster.store)
    _check(mirror.folder, new)
    with mirror.lease.held():
        mirror.go_on()
        mirror.start()
        try:
            yield mirror.check
        finally:
            mirror.close()


def journal(folder: Folder) -> tuple[bytes, int]:
    """What is copied of it, and where its last segment begins. Raises RunError: a segment is missing."""
    segments, content, begin = Folder(f"{folder.url}/{SEGMENTS}"), b"", 0
    for name in sorted(info.name for info in segments.files() if SEGMENT.fullmatch(info.name)):
        begin = int(name.removesuffix(".log"))
        if begin != len(content):
            raise RunError(f"{segments.url} lacks the segment before {name}: what is in it cannot be read")
        content += segments.read(name) or b""
    return content, begin


def restore(url: str, out: Path) -> None:
    """The run directory from its copy; its files stay in the store. Raises RunError: no copy there."""
    folder, profiles = Folder(url), Folder(f"{url.rstrip('/')}/{PROFILES}")
    found = {name: folder.read(name) for name in (CONFIG, STATUS, IN_DATABASE)}
    if found[CONFIG] is None:
        raise RunError(f"{url} is not a run: it has no {CONFIG}; see cluster.store of its run file")
    for name in (info.name for info in profiles.files() if PROFILE.fullmatch(info.name)):
        found[f"{PROFILES}/{name}"] = profiles.read(name)
    if found[IN_DATABASE] is None:
        found[NAME] = journal(folder)[0]
    try:
        (out / PROFILES).mkdir(parents=True, exist_ok=True)
        for name, content in found.items():
            if content is not None:
                (out / name).write_bytes(content)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error}") from error


def at(place: str | Path) -> Run:
    """The run in a directory, or behind the URL of its copy. Raises RunError: none there."""
    text = str(place)
    if "://" not in text and not (Path(text) / SEGMENTS).is_dir():
        return Run(text)
    kept = Path(tempfile.mkdtemp(prefix="pared-"))
    try:
        restore(text, kept)
        run = Run(kept, copy_of=text)
    except BaseException:
        shutil.rmtree(kept, ignore_errors=True)
        raise
    weakref.finalize(run, shutil.rmtree, kept, True)
    return run


def _check(folder: Folder, new: bool) -> None:
    try:
        folder.check()
    except RunError as error:
        raise RunError(f"cluster.store: {error}; allowed: a folder or bucket that can be written, its "
                       "credentials in the environment of the storage library") from error
    if new and folder.has(CONFIG):
        raise RunError(f"cluster.store: {folder.url} holds a run already; `pared fetch {folder.url} DIR` "
                       "brings it here to be resumed, or name another place with --set cluster.store=URL")


def _profiles(run: Path) -> list[str]:
    names = sorted(path.name for path in (run / PROFILES).glob("*"))
    return [f"{PROFILES}/{name}" for name in names if PROFILE.fullmatch(name)]
