"""A few cases of each kind of hostile input; `benchmarks/fuzz.py` runs the same by the ten thousand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from harness import Tally
from hypothesis import HealthCheck, given, settings
from place import Place
from strategies import damaged
from targets import KINDS

from examples import EXAMPLES

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
