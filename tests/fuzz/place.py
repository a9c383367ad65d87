"""Where hostile input is let loose: a run of its own, and a watch over everything that is written."""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

SEEDS = Path(__file__).parent / "seeds"
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES: dict[str, dict[int, int | None]] = {  # audit event -> its paths -> the open folder that they are in
    "os.mkdir": {0: 2}, "os.rmdir": {0: 1}, "os.remove": {0: 1}, "os.rename": {0: 2, 1: 3}, "os.symlink": {1: 2},
    "os.link": {1: 3}, "os.truncate": {0: None}, "os.chmod": {0: 2}, "os.chown": {0: 3},
}
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
            "socket.connect", "pickle.find_class")


_watching: list["Place"] = []  # at most one: an audit hook is never taken away, so all share one


class Place:
    """`run` (from the seeds), `out` and `tmp` may be written to; `home` and the working directory may not.

    What happens elsewhere is noted in `faults`.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.faults = root.resolve(), list[str]()
        self.run, self.out, self.tmp, self.home = (self.root / name for name in ("run", "out", "tmp", "home"))
        for folder in (self.out, self.tmp, self.home):
            folder.mkdir()
        shutil.copytree(SEEDS / "run", self.run)
        (self.run / "subject.py").write_text("raise SystemExit('a reader imported the subject')\n")

    def __enter__(self) -> "Place":
        self._before = os.getcwd(), os.environ.get("HOME"), tempfile.tempdir
        os.chdir(self.home)
        os.environ["HOME"], tempfile.tempdir = str(self.home), str(self.tmp)
        _watching.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _watching.remove(self)
        folder, home, tempfile.tempdir = self._before
        os.chdir(folder)
        os.environ["HOME"] = home or ""

    def restored(self, *names: str) -> None:
        """These files of the run as the seeds have them."""
        for name in names:
            shutil.copyfile(SEEDS / "run" / name, self.run / name)

    def stray(self) -> list[str]:
        """What lies where nothing may be, written by whatever no hook sees."""
        return [str(path) for folder in (self.home, self.root) for path in folder.iterdir()
                if path not in (self.run, self.out, self.tmp, self.home)]

    def seen(self, event: str, args: tuple[Any, ...]) -> None:
        """Audits one event of the interpreter."""
        if event in PROGRAMS:
            self.faults.append(f"{event} {args[:1]}")
        elif event == "exec" and str(getattr(args[0], "co_filename", "")).startswith(str(self.root)):
            self.faults.append(f"code of the run was executed: {args[0].co_filename}")
        elif event == "open" and isinstance(args[0], str | bytes) and _writes(args[1], args[2]):
            self._check(event, args[0])
        for path, folder in CHANGES.get(event, {}).items():
            if isinstance(args[path], str | bytes | os.PathLike):
                self._check(event, args[path], -1 if folder is None else args[folder])

    def _check(self, event: str, path: Any, folder: int = -1) -> None:
        base = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else ""
        full = os.path.realpath(os.path.join(base, os.fsdecode(path)))
        if not any(full == str(root) or full.startswith(f"{root}{os.sep}")
                   for root in (self.run, self.out, self.tmp)) and full != os.devnull:
            self.faults.append(f"{event} {full}")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    for place in _watching:
        place.seen(event, args)


sys.addaudithook(_audit)


def _writes(mode: object, flags: object) -> bool:
    return (isinstance(mode, str) and bool(set(mode) & set("wax+"))) or (
        mode is None and isinstance(flags, int) and bool(flags & WRITES))
