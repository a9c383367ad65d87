import numpy as np
import pytest

from pared.errors import MetricError
from pared.evaluators import accuracy
from pared.evaluators.export import export
from pared.evaluators.runtimes import runtime
from pared.spaces.subject import example_inputs


def session(subject: object):
    return runtime("onnxruntime").load(
        export(subject.model(), example_inputs(subject)).SerializeToString(), 1)


def test_the_file_scores_what_the_model_scores(subject: object) -> None:
    import torch

    split = subject.split("validation")
    with torch.inference_mode():
        outputs = subject.model()(torch.from_numpy(split.inputs[0])).numpy()
    scores = accuracy.scores(session(subject), split, subject)
    assert scores.mean() == (outputs.argmax(1) == split.targets).mean() > 0.75
    figure = accuracy.mean(scores)
    assert figure.n == 800 and figure.spread == pytest.approx(np.sqrt(0.7925 * 0.2075 / 800), rel=0.01)


def test_a_paired_drop_is_surer_than_two_separate_figures() -> None:
    rng = np.random.default_rng(0)
    untouched = (rng.random(1000) < 0.9).astype(float)
    candidate = untouched.copy()
    candidate[:10] = 0
    drop = accuracy.drop(untouched, candidate)
    assert drop.low < drop.value < drop.high
    assert drop.high - drop.low < 0.02 < 4 * accuracy.mean(untouched).spread


@pytest.mark.parametrize(("n", "supported"), [(100, False), (100_000, True)])
def test_a_small_split_cannot_support_a_small_loss(n: int, supported: bool) -> None:
    untouched = np.ones(n)
    candidate = untouched.copy()
    candidate[: n // 200] = 0  # half a point
    assert accuracy.drop(untouched, candidate).supports(0.01) is supported


@pytest.mark.parametrize(("scores", "told"), [
    (lambda n: np.full(n, np.nan), "not a number"),
    (lambda n: np.full(n, 1.5), "0..1"),
    (lambda n: np.ones(3), "shape"),
])
def test_a_metric_that_makes_no_sense_is_refused(subject: object, scores, told: str) -> None:
    class Odd(type(subject)):
        def score(self, outputs, targets):
            return scores(len(targets))

    odd = object.__new__(Odd)
    odd.__dict__ = subject.__dict__
    with pytest.raises(MetricError, match=told):
        accuracy.scores(session(subject), subject.split("test"), odd)
