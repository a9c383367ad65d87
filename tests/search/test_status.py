"""How much longer a search takes."""

import pytest

from pared.search.status import left_s


@pytest.mark.parametrize(("timeout", "elapsed", "left"), [(None, 5.0, 200.0), (60.0, 20.0, 40.0), (60.0, 80.0, 0.0)])
def test_the_time_left_ends_with_the_trials_or_with_the_time(timeout: float | None, elapsed: float, left: float) -> None:
    assert left_s(20, 0.1, timeout, elapsed) == left
