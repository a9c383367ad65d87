import optuna
import pytest

from pared.hardware_profiles.load import load
from pared.search import study as book
from pared.search.suggest import suggest
from pared.spaces import space
from pared.spaces.passes import Scope

SCOPE = Scope(("stage1", "stage2"), {"Conv": 0.5, "MatMul": 0.3, "Gemm": 0.2}, (load("host-cpu"),),
              heads={"attention": 4}, blocks=("a", "b"), factors=("linear",), students=("small",), taps=("a", "b"))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_samples_the_whole_conditional_space() -> None:
    """A knob whose options change from trial to trial would raise here."""
    built = space.build(SCOPE, {})
    study = optuna.create_study(sampler=book._sampler(0))
    seen: set[str] = set()
    for i in range(150):
        trial = study.ask()
        recipe = built.decode(suggest(trial, built))
        seen |= set(recipe.names)
        study.tell(trial, i % 7)
    assert len(seen) >= 14


def test_an_enqueued_anchor_or_sibling_comes_out_as_it_went_in() -> None:
    built = space.build(SCOPE, {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    wanted = [*built.anchors(), *built.siblings(built.setting({"sparsify": 0}, "none"))]
    for values in wanted:
        study.enqueue_trial(values)
    got = [built.decode(suggest(study.ask(), built)).digest for _ in wanted]
    assert got == [built.decode(values).digest for values in wanted]
