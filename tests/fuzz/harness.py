"""One case: a target, its input, and what became of it."""

import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from place import Place
from targets import KINDS, remembering

from pared.errors import ParedError

HANGS_S = 10.0


class Hang(BaseException):
    """The alarm rang."""


@dataclass
class Tally:
    """What came of the cases of one kind. `found` has one input for each place something went wrong."""

    kind: str
    place: Place
    cases: int = 0
    refused: int = 0
    tracebacks: int = 0
    hangs: int = 0
    writes_outside: int = 0
    slowest_s: float = 0.0
    found: dict[str, bytes] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)

    def case(self, data: bytes) -> None:
        began = time.monotonic()
        try:
            with _alarm(), self.place, remembering(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                KINDS[self.kind](data, self.place)
        except ParedError:
            self.refused += 1
        except Hang:
            self.hangs += 1
            self._note("hang", data)
        except (Exception, SystemExit) as error:
            self.tracebacks += 1
            self._note(_where(error), data)
        self.cases += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        self._look(data)

    def _look(self, data: bytes) -> None:
        strays = [*self.place.faults, *self.place.stray()]
        self.place.faults.clear()
        if strays:
            self.writes_outside += 1
            self._note(f"outside: {strays[0]}", data)

    def _note(self, what: str, data: bytes) -> None:
        self.times[what] += 1
        self.found.setdefault(what, data)


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, HANGS_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _where(error: BaseException) -> str:
    """The error, and the lines of pared that it came through."""
    frames = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
              for frame in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__}: {str(error)[:100]!r} at {' '.join(frames[-4:])}"
