"""A few cases of each kind of hostile input; `benchmarks/fuzz.py` runs the same by the ten thousand."""

import importlib
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import harness
from harness import Tally
from hypothesis import HealthCheck, given, settings
from place import Place
from strategies import damaged
from targets import KINDS
from valid import EXAMPLES

from pared.errors import UserError

CASES = {"recipe": 200, "cached": 100, "onnx_file": 100}
FEW = 25


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input_is_refused_and_nothing_else_happens(kind: str, tmp_path: Path) -> None:
    tally = Tally(kind, Place(tmp_path))
    for example in EXAMPLES[kind]:
        tally.case(example)

    @settings(max_examples=CASES.get(kind, FEW), derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))
    @given(damaged(kind))
    def case(data: bytes) -> None:
        tally.case(data)
        assert not tally.found, tally.found

    case()
    assert tally.cases >= CASES.get(kind, FEW) and (tally.refused or kind in ("cached", "live"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("profile", "onnx_file")])
def test_what_is_not_damaged_is_read(kind: str, tmp_path: Path) -> None:
    place = Place(tmp_path)
    for example in EXAMPLES[kind]:
        with place:
            KINDS[kind](example, place)
    assert not place.faults and not place.stray()


def test_what_goes_wrong_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch over the watch: a file elsewhere, the subject, an error of Python, a case without an end."""
    def wrong(data: bytes, place: Place) -> None:
        if data == b"write":
            (place.home / "stray").write_text("")
        elif data == b"import":
            sys.path.insert(0, str(place.run))
            importlib.import_module("subject")
        elif data == b"sleep":
            time.sleep(5)
        raise {b"user": UserError, b"key": KeyError}.get(data, UserError)(data)

    monkeypatch.setitem(KINDS, "wrong", wrong)
    monkeypatch.setattr(harness, "HANGS_S", 0.2)
    monkeypatch.setattr(sys, "path", list(sys.path))
    tally = Tally("wrong", Place(tmp_path))
    for data in (b"user", b"key", b"sleep", b"write"):
        tally.case(data)
    assert (tally.cases, tally.refused, tally.tracebacks, tally.hangs, tally.writes_outside) == (4, 2, 1, 1, 1)
    (tally.place.home / "stray").unlink()
    tally.case(b"import")
    assert (tally.tracebacks, tally.writes_outside) == (2, 2)
