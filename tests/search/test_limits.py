from types import MappingProxyType
from typing import Any

import pytest

from pared.errors import BudgetError
from pared.search.config import build
from pared.search.limits import latency_limit, limits, nowhere, on_profile
from pared.search.records import Untouched

UNTOUCHED = Untouched("ab" * 32, 2_000_000, 0.9, MappingProxyType({"host-cpu": 4.0}), 300_000, {"stm32l4r5-cube-ai": "float"})


def found(**fields: Any) -> dict[str, float]:
    return limits(build({"model": "m:o", **fields}, {}, "test"), UNTOUCHED)


def test_ram_and_flash_of_a_device_are_limits_whatever_the_user_allows() -> None:
    told = found(profiles=["stm32l4r5-cube-ai"])
    assert told == {"memory_bytes@stm32l4r5-cube-ai": 640 * 1024, "flash_bytes@stm32l4r5-cube-ai": 2048 * 1024}
    tighter = found(profiles=["stm32l4r5-cube-ai"], budgets={"stm32l4r5-cube-ai": {"memory": "100KiB"}})
    looser = found(profiles=["stm32l4r5-cube-ai"], budgets={"stm32l4r5-cube-ai": {"memory": "1MiB"}})
    assert tighter["memory_bytes@stm32l4r5-cube-ai"] == 100 * 1024
    assert looser["memory_bytes@stm32l4r5-cube-ai"] == 640 * 1024


def test_memory_counts_weights_where_they_are_not_run_from_flash() -> None:
    told = found(profiles=["host-cpu", "stm32l4r5-cube-ai"], budgets={
        "host-cpu": {"memory": "50%"}, "stm32l4r5-cube-ai": {"memory": "50%"}})
    assert told["memory_bytes@host-cpu"] == (2_000_000 + 300_000) / 2
    assert told["memory_bytes@stm32l4r5-cube-ai"] == 300_000 / 2


def test_a_relative_latency_needs_an_untouched_model_that_runs_there() -> None:
    assert latency_limit("2x", "host-cpu", UNTOUCHED) == 2.0
    assert latency_limit("3ms", "stm32l4r5-cube-ai", UNTOUCHED) == 3.0
    with pytest.raises(BudgetError, match="does not run there \\(float\\); write it in ms"):
        latency_limit("2x", "stm32l4r5-cube-ai", UNTOUCHED)


def test_a_candidate_is_lost_only_when_no_profile_is_left_for_it() -> None:
    assert not nowhere(["latency_ms@a"], ["a", "b"])
    assert nowhere(["latency_ms@a", "memory_bytes@b"], ["a", "b"])
    assert nowhere(["size_bytes"], ["a", "b"]) and not nowhere([], ["a"])
    assert on_profile({"size_bytes": 1, "latency_ms@a": 2, "latency_ms@b": 3}, ["a"]) == {"size_bytes": 1, "latency_ms@a": 2}
