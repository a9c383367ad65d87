import optuna
import pytest

from pared.hardware_profiles.load import load
from pared.search.suggest import front, suggest, tpe
from pared.spaces import space
from pared.spaces.passes import PASSES, Scope

SCOPE = Scope(("stage1", "stage2"), {"Conv": 0.5, "MatMul": 0.3, "Gemm": 0.2}, (load("host-cpu"),),
              heads={"attention": 4}, blocks=("a", "b"), factors=("linear",), students=("small",), taps=("a", "b"))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_samples_the_whole_conditional_space() -> None:
    """A knob whose options change from trial to trial would raise here."""
    built = space.build(SCOPE, {})
    study = optuna.create_study(sampler=tpe(0))
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


def test_front_sampler_proposes_recipes_that_are_new_and_active_all_through() -> None:
    built = space.build(SCOPE, {})
    objectives = {"accuracy": "maximize", "size_bytes": "minimize"}
    study = optuna.create_study(directions=list(objectives.values()), sampler=front(built, objectives, 0))
    tried: set[str] = set()
    for i in range(24):
        trial = study.ask()
        recipe = built.decode(suggest(trial, built))
        assert trial.params == study.sampler._proposed[trial.number]  # nothing asked for in vain, nothing left out
        tried.add(str(sorted(trial.params.items())))
        study.tell(trial, (90 - len(recipe.steps) - i % 3, 1e6 / (1 + len(recipe.steps))))
    assert len(tried) == 24


@pytest.mark.parametrize(("values", "work", "bytes_"), [
    ({"allocation": "uniform", "amount": 0.5}, 0.25, 0.25), ({"allocation": "latency", "amount": 0.5}, 0.5, 0.5),
    ({"allocation": "stages", "ratio.stage1": 0.0, "ratio.stage2": 0.5}, 0.625, 0.625)])
def test_what_a_cut_is_expected_to_leave(values: dict[str, object], work: float, bytes_: float) -> None:
    left = PASSES["prune"].leaves(values, SCOPE)
    assert (left.work, left.bytes) == pytest.approx((work, bytes_))


@pytest.mark.parametrize("name", PASSES)
def test_every_technique_says_what_it_is_expected_to_leave(name: str) -> None:
    for usual in PASSES[name].usual(SCOPE):
        left = PASSES[name].leaves(usual, SCOPE)
        assert 0 < left.work <= 1 and 0 < left.bytes <= 1.04  # a bitmap of the zeros takes 1/32
