from pathlib import Path

from pared.evaluators.accuracy import Drop
from pared.evaluators.measurement import Measurement
from pared.search.candidate import Candidate
from pared.search.choice import noted
from pared.search.report.tables import _notes
from pared.spaces.passes.recover import Recover
from pared.spaces.recipe import Recipe

TOLD = "training epoch 2: the loss is nan; rolled back to the end of epoch 1, went on at half the learning rate"


def test_what_a_training_said_is_on_the_pick_in_the_json_and_in_the_report() -> None:
    metrics = {"accuracy": Measurement(0.9, "fraction", "measured"),
               "latency_ms@host-cpu": Measurement(1.0, "ms", "measured", ratio=0.5)}
    candidate = Candidate(Path("run"), "run/artifacts", 3, Recipe((Recover(2, 1e-3, 4.0, 0.5),)), "0" * 64, metrics,
                          Drop(0.0, -0.01, 0.01, 100), {}, told=(TOLD,))
    assert noted(candidate, ["host-cpu"], None).notes == (TOLD,)
    assert candidate.to_json()["notes"] == [TOLD] and TOLD in _notes(candidate, "host-cpu")
