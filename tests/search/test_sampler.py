"""FrontSampler in plain Optuna studies, on problems whose answers are known."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from pared.search.front import hypervolume
from pared.search.sampler import FrontSampler
from pared.search.sampler.history import History, unbeaten
from pared.search.sampler.surrogate import Inputs, Settings, Surrogate, fit

Params = Mapping[str, Any]
MIXED: dict[str, BaseDistribution] = {
    "bits": CategoricalDistribution(("float", "int8", "int4")), "width": IntDistribution(8, 64, step=8),
    "rate": FloatDistribution(1e-4, 1e-1, log=True), "teacher": CategoricalDistribution((False, True)),
}
FRONT = {"accuracy": "maximize", "latency": "minimize"}
SPEED = {"float": 1.0, "int8": 0.4, "int4": 0.35}


def latency(params: Params) -> float:
    return 0.5 + params["width"] * SPEED[params["bits"]]


def accuracy(params: Params) -> float:
    lost = {"float": 0.0, "int8": 0.5, "int4": 6.0}[params["bits"]] + 200 / params["width"]
    return float(90 - lost - (np.log10(params["rate"]) + 2.5) ** 2 + 0.5 * params["teacher"])


def cost(params: Params) -> dict[str, float]:
    return {"latency": latency(params), "macs": float(params["width"] ** 2)}


def study(sampler: optuna.samplers.BaseSampler, directions: Mapping[str, str] = FRONT) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(directions=list(directions.values()), sampler=sampler)


def ask(of: optuna.Study, space: Mapping[str, BaseDistribution] = MIXED) -> optuna.Trial:
    return of.ask(dict(space))


def run(
    of: optuna.Study, trials: int, judge: Callable[[Params], Any],
    space: Mapping[str, BaseDistribution] = MIXED,
) -> list[Params]:
    for _ in range(trials):
        trial = ask(of, space)
        of.tell(trial, judge(trial.params))
    return [trial.params for trial in of.trials]


def both(params: Params) -> tuple[float, float]:
    return accuracy(params), latency(params)


def front_area(tried: list[Params]) -> float:
    return hypervolume([(np.log(latency(p)), -accuracy(p)) for p in tried], (np.log(70), -60.0))


def key(params: Params) -> tuple[Any, ...]:
    return tuple(sorted(params.items()))


def test_the_front_grows_faster_than_with_tpe_and_at_random() -> None:
    samplers: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
        "front": lambda seed: FrontSampler(MIXED, FRONT, cost, seed=seed),
        "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True),
        "random": lambda seed: optuna.samplers.RandomSampler(seed),
    }
    areas = {name: np.mean([front_area(run(study(make(seed)), 25, both)) for seed in range(4)])
             for name, make in samplers.items()}
    assert areas["front"] > areas["tpe"]
    assert areas["front"] > areas["random"]


def test_equal_seeds_give_equal_proposals_and_others_do_not() -> None:
    first, again, other = (run(study(FrontSampler(MIXED, FRONT, cost, seed=s)), 14, both) for s in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_resumed_study_goes_on_as_if_it_had_never_stopped() -> None:
    whole = run(study(FrontSampler(MIXED, FRONT, cost, seed=1)), 14, both)
    stopped = study(FrontSampler(MIXED, FRONT, cost, seed=1))
    run(stopped, 10, both)
    stopped.sampler = FrontSampler(MIXED, FRONT, cost, seed=1)
    assert run(stopped, 1, both) == whole[:11]


def test_nothing_is_proposed_over_a_budget_or_twice() -> None:
    budgets = {"latency": 15.0, "macs": 1600.0}
    tried = run(study(FrontSampler(MIXED, FRONT, cost, budgets, seed=0)), 40, both)
    assert all(cost(p)[name] <= limit for p in tried for name, limit in budgets.items())
    assert len(set(map(key, tried))) == len(tried)


def test_a_candidate_that_is_not_allowed_is_never_proposed() -> None:
    def picky(params: Params) -> dict[str, float]:
        return {"latency": np.inf if params["bits"] == "int4" else latency(params)}

    of = study(FrontSampler(MIXED, FRONT, picky, seed=0))
    of.enqueue_trial({"bits": "int4", "width": 32, "rate": 1e-3, "teacher": True})  # as the user likes
    tried = run(of, 25, both)
    assert [p["bits"] for p in tried].count("int4") == 1


def test_the_start_is_spread_over_the_range_of_costs() -> None:
    tried = run(study(FrontSampler(MIXED, FRONT, cost, seed=0)), 8, both)
    logs = np.log([latency(p) for p in tried])
    everything = np.log([0.5 + w * s for w in range(8, 65, 8) for s in SPEED.values()])
    thirds = np.linspace(everything.min(), everything.max(), 4)
    assert np.histogram(logs, thirds)[0].min() >= 1


def test_pending_trials_are_not_proposed_again_and_are_spread() -> None:
    of = study(FrontSampler(MIXED, FRONT, cost, seed=0))
    run(of, 12, both)
    waiting = [ask(of).params for _ in range(8)]
    assert len(set(map(key, waiting))) == 8
    assert len({latency(p) for p in waiting}) >= 4


def test_trials_given_to_the_study_count_and_are_left_as_they_are() -> None:
    of = study(FrontSampler(MIXED, FRONT, cost, seed=0))
    given = {"bits": "int8", "width": 32, "rate": 3e-3, "teacher": True}
    of.enqueue_trial(given)
    assert run(of, 20, both)[0] == given
    assert [key(t.params) for t in of.trials].count(key(given)) == 1


def test_a_wrong_cost_is_corrected_by_what_the_study_is_told() -> None:
    dice = np.random.default_rng(0)
    factors: dict[tuple[Any, ...], float] = {}

    def wrong(params: Params) -> dict[str, float]:
        factor = factors.setdefault((params["bits"], params["width"]), float(np.exp(0.2 * dice.normal())))
        return {"latency": latency(params) * factor}

    good, bad = (np.mean([front_area(run(study(FrontSampler(MIXED, FRONT, each, seed=s)), 25, both))
                          for s in range(3)]) for each in (cost, wrong))
    assert bad > 0.9 * good


def test_failed_and_pruned_trials_are_not_repeated_and_failures_avoided() -> None:
    of = study(FrontSampler(MIXED, FRONT, cost, seed=0))
    for _ in range(40):
        trial = ask(of)
        if trial.params["bits"] == "int4":
            of.tell(trial, state=TrialState.FAIL)
        elif trial.number % 10 == 9:
            of.tell(trial, state=TrialState.PRUNED)
        else:
            of.tell(trial, both(trial.params))
    assert len({key(t.params) for t in of.trials}) == 40
    assert sum(t.params["bits"] == "int4" for t in of.trials[20:]) <= 5


def conditional(trial: optuna.Trial) -> tuple[float, float]:
    """`rank` exists only where the layer is factored."""
    width = trial.suggest_int("width", 8, 64, step=8)
    factored = trial.suggest_categorical("factored", (False, True))
    rank = trial.suggest_int("rank", 2, 16) if factored else None
    macs = float(width * rank if rank else width**2)
    return 100 - 100 / width - (10 / rank if rank else 0), macs


CONDITIONAL: dict[str, BaseDistribution] = {
    "width": IntDistribution(8, 64, step=8), "factored": CategoricalDistribution((False, True)),
    "rank": IntDistribution(2, 16)}


def conditional_cost(params: Params) -> dict[str, float]:
    return {"macs": float(params["width"] * params["rank"] if params["factored"] else params["width"] ** 2)}


@pytest.mark.parametrize("told", [False, True])
def test_parameters_that_a_trial_does_not_ask_for_make_no_other_candidate(told: bool) -> None:
    def active(params: Mapping[str, Any]) -> set[str]:
        return {"width", "factored", *(["rank"] if params["factored"] else [])}

    objectives = {"accuracy": "maximize", "macs": "minimize"}
    sampler = FrontSampler(CONDITIONAL, objectives, conditional_cost, seed=0, active=active if told else None)
    of = study(sampler, objectives)
    of.optimize(conditional, n_trials=40)
    tried = [key(t.params) for t in of.trials]
    assert len(tried) - len(set(tried)) <= (0 if told else 1)  # the first of its kind has to be seen
    assert any(t.params.get("factored") and "rank" in t.params for t in of.trials)


def test_several_unknown_objectives_and_none_that_is_known() -> None:
    objectives = {"accuracy": "maximize", "drift": "minimize", "latency": "minimize"}
    of = study(FrontSampler(MIXED, objectives, cost, seed=0), objectives)
    for _ in range(25):
        trial = ask(of)
        of.tell(trial, (accuracy(trial.params), trial.params["rate"], latency(trial.params)))
    assert len(of.best_trials) >= 5
    alone = study(FrontSampler(MIXED, {"accuracy": "maximize"}, lambda p: {"macs": 1.0 * p["width"]}, seed=0),
                  {"accuracy": "maximize"})
    tried = run(alone, 30, accuracy)
    assert max(map(accuracy, tried)) > 86.9  # 87.4 is the best there is


def test_a_standard_error_makes_one_lucky_reading_count_less() -> None:
    inputs = Inputs(np.linspace(0, 1, 9)[:, None], np.zeros(1, np.int64), np.linspace(-1, 1, 9)[:, None])
    y = np.zeros(9)
    y[4] = 1.0
    at = inputs[np.array([4])]
    sure, unsure = (Surrogate(inputs, y, noise, Settings.usual(1)).predict(at)[0][0]
                    for noise in (np.zeros(9), np.where(y > 0, 2.0, 0.0)))
    assert unsure < 0.5 * sure


def test_uncertainty_covers_what_the_surrogate_gets_wrong() -> None:
    dice, inside = np.random.default_rng(0), []
    for _ in range(20):
        x = dice.random((60, 3))
        y = np.sin(5 * x[:, 0]) + x[:, 1] ** 2 + 0.05 * dice.normal(size=60)
        inputs = Inputs(x, np.arange(3), (x - 0.5) / 0.29)
        z = (y[:40] - y[:40].mean()) / y[:40].std()
        model = Surrogate(inputs[np.arange(40)], y[:40], np.zeros(40), fit(inputs[np.arange(40)], z, np.zeros(40)))
        mean, spread = model.predict(inputs[np.arange(40, 60)])
        inside += list(np.abs(y[40:] - mean) < 2 * np.hypot(spread, 0.05))
    assert 0.88 < np.mean(inside) <= 1.0


def test_a_proposal_takes_at_most_50_ms_at_1000_finished_trials() -> None:
    sampler = FrontSampler(MIXED, FRONT, cost, seed=0)
    of = study(sampler)
    dice = np.random.default_rng(0)
    for _ in range(1000):
        params = {"bits": str(dice.choice(["float", "int8", "int4"])), "width": int(dice.integers(1, 9)) * 8,
                  "rate": float(10 ** dice.uniform(-4, -1)), "teacher": bool(dice.integers(2))}
        of.add_trial(optuna.trial.create_trial(params=params, distributions=MIXED, values=both(params)))
    took = []
    for _ in range(6):
        began = time.process_time()  # other work on the machine does not count
        ask(of)
        took.append(time.process_time() - began)
    assert np.median(took) < 0.050


@pytest.mark.parametrize(("arguments", "says"), [
    ({"objectives": {"accuracy": "up"}}, "up"), ({"objectives": {}}, "objectives"),
    ({"budgets": {"energy": 1.0}}, "energy")])
def test_wrong_arguments_are_told(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ask(study(FrontSampler(**{"space": MIXED, "objectives": FRONT, "cost": cost, **arguments})))


def test_a_budget_that_nothing_meets_is_told() -> None:
    with pytest.raises(ValueError, match="within the budgets"):
        ask(study(FrontSampler(MIXED, FRONT, cost, {"latency": 0.1})))


def test_a_cost_that_is_no_number_is_told() -> None:
    with pytest.raises(ValueError, match="nan"):
        ask(study(FrontSampler(MIXED, FRONT, lambda p: {"latency": float("nan")})))


def test_a_space_that_is_used_up_is_told() -> None:
    small: dict[str, BaseDistribution] = {"width": IntDistribution(8, 24, step=8)}
    of = study(FrontSampler(small, FRONT, lambda p: {"latency": float(p["width"])}, seed=0))
    for _ in range(3):
        trial = ask(of, small)
        of.tell(trial, (1.0 * trial.params["width"], 1.0 * trial.params["width"]))
    with pytest.raises(ValueError, match="new"):
        ask(of, small)


def test_parameters_outside_the_space_are_drawn_all_the_same() -> None:
    of = study(FrontSampler(MIXED, FRONT, cost, seed=0))
    trial = ask(of)
    assert 0 <= trial.suggest_float("other", 0, 1) <= 1


LEGS: dict[str, BaseDistribution] = {**MIXED, "epochs": IntDistribution(1, 9, log=True)}


def trained(params: Params) -> tuple[float, float]:
    """Wider nets need longer: after one epoch the narrow ones look best."""
    unripe = params["width"] / 8 * (1 - np.log(params["epochs"]) / np.log(9))
    return accuracy(params) - unripe, latency(params)


def test_a_proposal_begins_at_the_least_fidelity_and_no_training_is_begun_twice() -> None:
    of = study(FrontSampler(LEGS, FRONT, cost, seed=0, fidelity="epochs"))
    of.enqueue_trial({"bits": "int8", "width": 32, "rate": 1e-3, "teacher": True, "epochs": 9})
    for number in range(40):
        trial = ask(of, LEGS)
        of.tell(trial, trained(trial.params))
        if number and number % 4 == 0:
            of.enqueue_trial({**trial.params, "epochs": 9})
    own = [t.params for t in of.trials if "fixed_params" not in t.system_attrs]
    assert len(own) > 25 and {params["epochs"] for params in own} == {1}
    begun = [tuple(v for k, v in params.items() if k != "epochs") for params in own]
    given = ("int8", 32, 1e-3, True)
    assert len(set(begun)) == len(begun) and given not in begun


def test_proposals_are_judged_by_what_they_become() -> None:
    """Accuracy at the end grows with width; after one epoch it falls with it."""
    of = study(FrontSampler(LEGS, FRONT, cost, seed=0, fidelity="epochs"))
    dice = np.random.default_rng(0)
    for _ in range(16):
        values = {"bits": "float", "width": int(dice.choice(range(8, 65, 8))), "rate": 3e-3, "teacher": True}
        for epochs in (1, 9):
            of.enqueue_trial({**values, "epochs": epochs}, skip_if_exists=True)
    while any(t.state == TrialState.WAITING for t in of.trials):
        trial = ask(of, LEGS)
        of.tell(trial, trained(trial.params))
    number = len(of.trials)
    later = run(of, 12, trained, LEGS)[number:]
    assert np.mean([params["width"] for params in later]) > 24, later
    assert number == len(of.trials) - 12


@pytest.mark.parametrize("name", ["depth", "bits"])
def test_a_fidelity_that_is_no_number_of_the_space_is_told(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is no number"):
        FrontSampler(LEGS, FRONT, cost, fidelity=name)


def test_proposals_from_one_look_differ_and_lie_apart() -> None:
    many = study(FrontSampler(MIXED, FRONT, cost, seed=0, batch=8))
    run(many, 24, lambda p: (accuracy(p), latency(p)))
    found = [tuple(ask(many).params.items()) for _ in range(16)]
    assert len(set(found)) == 16
    assert len({dict(params)["width"] for params in found[:8]}) > 2


def test_what_others_try_meanwhile_is_left_out_of_the_plan() -> None:
    sampler = FrontSampler(MIXED, FRONT, cost, seed=0, batch=8)
    of = study(sampler)
    run(of, 24, lambda p: (accuracy(p), latency(p)))
    ask(of)
    planned = [sampler._vectors.decode(row) for row in sampler._plan]
    of.enqueue_trial(planned[0])
    ask(of)
    assert planned[0] not in [ask(of).params for _ in range(len(planned))]


def test_of_parameter_sets_that_stand_for_the_same_one_is_proposed() -> None:
    of = study(FrontSampler(MIXED, FRONT, cost, seed=0, same=lambda p: (p["bits"], p["width"])))
    found = run(of, 24, lambda p: (accuracy(p), latency(p)))
    assert len({(p["bits"], p["width"]) for p in found}) == 24, "3 formats times 8 widths"
    with pytest.raises(ValueError, match="no candidate that is new"):
        ask(of)


def test_a_long_history_is_thinned_and_its_front_stays() -> None:
    dice = np.random.default_rng(0)
    losses = dice.random((3000, 2))
    rows = dice.random((3000, 4))
    whole = History(rows, losses, np.zeros_like(losses), rows)
    thin = whole.thinned(500)
    assert len(thin.rows) == 500 and len(thin.tried) == 3000
    front = {tuple(point) for point in losses[unbeaten(losses)]}
    assert front == {tuple(point) for point in losses[whole.front]}
    assert front <= {tuple(point) for point in thin.losses}
