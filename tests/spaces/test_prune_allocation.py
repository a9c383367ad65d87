"""Which groups get narrower, and what that costs."""

import copy
import itertools
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import pared
from pared.errors import GateError
from pared.evaluators.export import export
from pared.hardware_profiles import graph
from pared.hardware_profiles.load import load
from pared.hardware_profiles.predict import predict
from pared.spaces import space
from pared.spaces.knob import Choice
from pared.spaces.materials import Materials
from pared.spaces.passes import Scope, _allocation, _cost, prune
from pared.spaces.passes._importance import scores
from pared.spaces.passes.prune import Prune, PrunePass, prunable
from pared.spaces.recipe import Recipe, from_json
from pared.spaces.sensitivity import Sensitivity

HOST = load("host-cpu")
IMAGES = np.random.default_rng(0).normal(size=(32, 1, 14, 14)).astype(np.float32)
SCOPE = Scope(("stage1", "stage2"), {"Conv": 1.0}, (HOST,))


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1), nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity() if stride == 1 else nn.Conv2d(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, 1, 1)
        self.blocks = nn.Sequential(Block(32, 32, 1), Block(32, 64, 2), Block(64, 64, 1))
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def residual() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


def materials(factory: Any, **more: Any) -> Materials:
    data = (IMAGES, np.arange(len(IMAGES)) % 4)
    return Materials(pared.Classification(factory, data, data, data), **more)


def by_latency(amount: float, criterion: str = "taylor") -> Prune:
    return Prune((), criterion, 8, "latency", amount, machine=HOST.kind, prices=_cost.prices(HOST))


def widths(model: nn.Module) -> dict[str, int]:
    return {name: module.out_channels for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def cost_of(model: nn.Module, step: Prune) -> _cost.Cost:
    inputs = (IMAGES[:2],)
    before = {group.root: group.width for group in prunable(model, inputs)}
    return _cost.Cost(_cost.layers(model, before, inputs), before, step.machine, step.prices)


def plans(model: nn.Module, count: int) -> list[dict[str, int]]:
    dice = random.Random(0)
    return [{g.root: dice.choice([w for w in range(8, g.width, 8)]) for g in prunable(model, (IMAGES[:2],))}
            for _ in range(count)]


def pruned_to(model: nn.Module, plan: dict[str, int]) -> nn.Module:
    cut = copy.deepcopy(model)
    prune.cut_(cut, plan, "l2", (IMAGES[:2],))
    return cut


def test_the_cost_of_a_plan_is_that_of_the_model_pruned_so() -> None:
    model = residual()
    cost = cost_of(model, by_latency(0.5))
    paths = [layer.path for layer in cost.layers]
    for plan in plans(model, 4):
        read = _cost.kernels(pruned_to(model, plan), paths, (IMAGES[:2],))
        assert cost(plan) == pytest.approx(cost.of(kernel for _, kernel in read))


@pytest.mark.slow
def test_the_cost_of_plans_ranks_them_as_the_prediction_for_their_exported_files_does() -> None:
    model = residual()
    cost, tried = cost_of(model, by_latency(0.5)), plans(model, 8)
    files = [export(pruned_to(model, plan), (IMAGES[:2],)).SerializeToString() for plan in tried]
    predicted = [predict(graph.read(file), HOST).latency_ms for file in files]
    assert spearmanr([cost(plan) for plan in tried], predicted).statistic > 0.95


def test_knapsack_finds_what_trying_everything_finds() -> None:
    dice, price = np.random.default_rng(0), {"a": 3.0, "b": 1.0, "c": 2.0}
    found = {name: torch.tensor(dice.random(32)) for name in "abc"}

    def cost(plan: Any) -> float:  # neighbours cost the product of their widths
        return sum(price[x] * plan[x] * plan[y] for x, y in itertools.pairwise("abca"))

    values = _allocation.kept_importance(found, 4)
    every = [dict(zip("abc", each, strict=True)) for each in itertools.product(range(4, 33, 4), repeat=3)]
    for amount in (0.3, 0.5, 0.7, 0.9):
        budget = cost(every[-1]) * (1 - amount)
        best = max(sum(values[r][w] for r, w in plan.items()) for plan in every if cost(plan) <= budget)
        plan = _allocation.knapsack(values, cost, amount)
        assert cost(plan) <= budget
        assert sum(values[r][w] for r, w in plan.items()) >= 0.97 * best


@pytest.mark.parametrize("allocation", ["sensitivity", "latency"])
@pytest.mark.parametrize("amount", [0.3, 0.6])
def test_a_budget_is_met_in_multiples_of_the_step(allocation: str, amount: float) -> None:
    model, step = residual(), replace(by_latency(amount), allocation=allocation)
    pruned = PrunePass().apply(step, model, materials(residual))
    assert all(width % 8 == 0 for width in widths(pruned).values())
    cost, after = cost_of(model, step), widths(pruned)
    assert cost({root: after[root] for root in cost.widths}) <= (1 - amount) * cost({})


def test_more_than_can_go_is_refused_with_what_can() -> None:
    with pytest.raises(GateError, match="the narrowest saves [5-8]"):
        PrunePass().apply(by_latency(0.95), residual(), materials(residual))


def test_latency_spares_what_is_cheap_and_uniform_does_not() -> None:
    cut = widths(PrunePass().apply(by_latency(0.6, "l2"), residual(), materials(residual)))
    even = widths(PrunePass().apply(Prune((), "l2", 8, "uniform", 0.6), residual(), materials(residual)))
    assert {w: even[p] for p, w in widths(residual()).items() if p != "head"} == {32: 16, 64: 24}
    assert cut["blocks.2.conv1"] / 64 > cut["blocks.0.conv1"] / 32


def test_global_takes_more_from_the_group_whose_channels_matter_less() -> None:
    def lopsided() -> nn.Module:
        model = residual()
        model.blocks[2].bn2.weight.data.fill_(1e-3)  # hardly anything comes out of this block
        return model

    cut = widths(PrunePass().apply(Prune((), "taylor", 8, "global", 0.5), lopsided(), materials(lopsided)))
    assert cut["blocks.2.conv1"] == 8 and cut["blocks.0.conv1"] > 8


def test_sensitivity_narrows_where_the_measured_rise_is_small() -> None:
    step = Prune((), "l2", 8, "sensitivity", 0.5, rises=(
        ("blocks.0.conv1", ((0.5, 9.0), (0.8, 20.0))), ("blocks.1.conv1", ((0.5, 9.0), (0.8, 20.0))),
        ("blocks.1.conv2", ((0.5, 0.01), (0.8, 0.02))), ("blocks.2.conv1", ((0.5, 0.01), (0.8, 0.02)))))
    cut = widths(PrunePass().apply(step, residual(), materials(residual)))
    assert cut["blocks.0.conv1"] == 32 and cut["blocks.1.conv1"] > 32
    assert cut["blocks.2.conv1"] < 64 and cut["blocks.1.conv2"] < 64
    assert cut["stem"] == 32  # was not measured


def test_ratios_mean_the_layers_of_the_untouched_model_when_a_block_is_gone() -> None:
    shorter = residual()
    shorter.blocks[0] = nn.Identity()  # with it goes half of the first stage
    shorter.blocks[2] = nn.Identity()
    for ratios in ((0.5, 0.0), (0.0, 0.5), (0.5, 0.75)):
        cut = widths(PrunePass().apply(Prune(ratios, "l2", 8), shorter, materials(residual)))
        assert cut["stem"] == 32 * (1 - ratios[0])
        assert cut["blocks.1.conv1"] == cut["blocks.1.conv2"] == 64 * (1 - ratios[1])


def test_the_first_layer_of_a_group_may_be_gone() -> None:
    """What is left of the group answers to the stage of the whole."""
    model = residual()
    groups = {g.root: g.makers for g in prunable(model, (IMAGES[:2],))}
    assert any(len(makers) > 1 for makers in groups.values())
    shorter = residual()
    shorter.stem = nn.Conv2d(1, 32, 3, 1, 1, groups=1)
    shorter.blocks[0].conv2 = nn.Identity()
    cut = widths(PrunePass().apply(Prune((0.5, 0.0), "l2", 8), shorter, materials(residual)))
    assert cut["stem"] == cut["blocks.0.conv1"] == 16


@pytest.mark.parametrize("allocation", ["uniform", "global", "sensitivity", "latency"])
def test_every_allocation_works_when_a_block_is_gone(allocation: str) -> None:
    shorter = residual()
    shorter.blocks[0] = nn.Identity()
    step = replace(by_latency(0.5), allocation=allocation)
    cut = PrunePass().apply(step, shorter, materials(residual))
    assert sum(widths(cut).values()) < sum(widths(shorter).values())


def test_a_kept_layer_keeps_its_width_and_the_others_meet_the_budget() -> None:
    cut = widths(PrunePass().apply(by_latency(0.3), residual(), materials(residual, keep=("blocks.0",))))
    assert cut["stem"] == cut["blocks.0.conv1"] == cut["blocks.0.conv2"] == 32
    assert sum(cut.values()) < sum(widths(residual()).values())


def test_an_allocator_that_ignores_its_budget_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_allocation, "knapsack", lambda values, cost, amount: {
        root: sorted(of)[-2] for root, of in values.items()})
    with pytest.raises(GateError, match="60% of the cost was to go"):
        PrunePass().apply(by_latency(0.6), residual(), materials(residual))


def test_a_cost_that_counts_savings_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is too wide for its budget: the pruned model itself tells."""
    honest = _cost.Layer.at
    monkeypatch.setattr(_cost.Layer, "at", lambda layer, plan, before: honest(
        layer, {root: max(8, width // 2) for root, width in plan.items() if width < before[root]}, before))
    with pytest.raises(GateError, match="of the cost was to go"):
        PrunePass().apply(by_latency(0.5), residual(), materials(residual))


def test_an_old_step_keeps_its_text_and_a_new_one_replays_from_its_own() -> None:
    assert Recipe((Prune((0.5, 0.3), "l2", 8),)).json == (
        '{"steps":[{"criterion":"l2","pass":"prune","ratios":[0.5,0.3],"width_step":8}],"version":1}')
    step = PrunePass().decode({"allocation": "latency", "amount": 0.5, "criterion": "taylor"}, SCOPE)
    again = from_json(Recipe((step,)).json).steps[0]
    assert again == step and step.prices and step.machine == "cpu"
    once, twice = (PrunePass().apply(each, residual(), materials(residual)).state_dict() for each in (step, again))
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_only_the_knobs_of_the_chosen_allocation_are_open() -> None:
    built, dice = space.build(replace(SCOPE, profiles=(HOST, load("rpi4-ort-cpu"))), {}), random.Random(0)
    seen: dict[str, set[str]] = {}
    for _ in range(200):
        values = built.walk(lambda name, knob: True if name == "prune" else dice.choice(knob.options)
                            if isinstance(knob, Choice) else knob.nearest(dice.uniform(knob.low, knob.high)))
        mine = {name.removeprefix("prune.") for name in values if name.startswith("prune.")}
        seen.setdefault(str(values["prune.allocation"]), set()).update(mine)
        built.decode(values)
    ratios = {"ratio.stage1", "ratio.stage2"}
    both = {"allocation", "criterion"}
    assert seen == {"stages": both | ratios, "latency": both | {"amount", "device"},
                    **dict.fromkeys(("uniform", "global", "sensitivity"), both | {"amount"})}


def test_what_was_measured_goes_into_the_step() -> None:
    scope = replace(SCOPE, sensitivity=Sensitivity(ratios={"stem": {0.5: 0.123456, 0.25: 0.01}}))
    step = PrunePass().decode({"allocation": "sensitivity", "amount": 0.5, "criterion": "l2"}, scope)
    assert step.rises == (("stem", ((0.25, 0.01), (0.5, 0.1235))),)


def test_prices_differ_by_device() -> None:
    scope = replace(SCOPE, profiles=(HOST, load("rpi4-ort-cpu"), load("ethos-u55-128")))
    values = {"allocation": "latency", "amount": 0.5, "criterion": "l2"}
    steps = [PrunePass().decode({**values, "device": p.name}, scope) for p in scope.profiles]
    assert len({step.prices for step in steps}) == 3 and steps[2].machine == "npu"


@pytest.mark.parametrize("criterion", ["taylor", "activation"])
def test_data_tell_a_dead_channel_however_large_its_weights(criterion: str) -> None:
    class Chain(nn.Module):
        """Batch norm after the activation, as well: a gate on the readers sees through it."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3)
            self.head = nn.Linear(8, 4)
            with torch.no_grad():
                self.a.weight[3], self.a.bias[3] = 10.0, -1e4  # never gets through the activation

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.b(self.norm(torch.relu(self.a(x))))).mean((2, 3)))

    torch.manual_seed(0)
    model = Chain().eval()
    mine = materials(model)
    by_data = scores(model, ["a"], criterion, mine.inputs, mine.subject)["a"]
    by_weight = scores(model, ["a"], "l2", mine.inputs)["a"]
    assert by_data.argmin() == 3 and by_data[3] == 0 and by_weight.argmax() == 3


def test_taylor_is_the_slope_of_the_loss_by_a_gate_on_the_channel() -> None:
    """The residual stream is read by several layers: its gate stands before each of them."""
    model, mine = residual(), materials(residual)
    root = "stem"
    found = scores(model, [root], "taylor", mine.inputs, mine.subject)[root]
    data = mine.subject.split("calibration")
    gate = torch.ones(32, requires_grad=True)
    gates = [model.blocks[0].conv1, model.blocks[1].conv1, model.blocks[1].shortcut]
    for reader in gates:
        reader.register_forward_pre_hook(lambda m, args: (args[0] * gate[:, None, None],))
    expected = torch.zeros(32)
    for image, label in zip(data.inputs[0], data.targets, strict=True):
        loss = mine.subject.loss(model(torch.from_numpy(image[None])), torch.tensor([label]))
        expected += torch.autograd.grad(loss, gate)[0] ** 2 / len(data)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-9)


def test_a_score_that_is_no_number_is_refused() -> None:
    images = IMAGES.copy()
    images[5:] = np.nan
    data = (images, np.zeros(len(images), np.int64))
    broken = Materials(pared.Classification(residual, data, data, data))
    with pytest.raises(GateError, match="'taylor' is not finite for stem"):
        PrunePass().apply(Prune((), "taylor", 8, "uniform", 0.5), residual(), broken)
