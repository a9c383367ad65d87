import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from pared.errors import GateError, TrainingError
from pared.hardware_profiles.load import load
from pared.spaces import space
from pared.spaces.materials import Materials, Teacher
from pared.spaces.passes import Scope, recover
from pared.spaces.passes.prune import Prune, PrunePass
from pared.spaces.passes.recover import Recover, RecoverPass
from pared.spaces.recipe import Recipe, from_json
from pared.spaces.teaching import remembered
from pared.spaces.training import Settings, train_


@pytest.fixture(scope="module")
def teacher(subject: object) -> Teacher:
    return remembered(subject.model(), subject.split("train"))


def hits(model: torch.nn.Module, subject: object) -> float:
    split = subject.split("validation")
    with torch.inference_mode():
        return subject.score(model(torch.from_numpy(split.inputs[0])).numpy(), split.targets).mean()


class Spoilt:
    """A subject whose loss is not a number at the given calls of it, counted from 0."""

    def __init__(self, subject: object, *calls: int) -> None:
        self.subject, self.calls, self.count = subject, calls, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.subject, name)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return self.subject.loss(outputs, targets) * (float("nan") if self.count - 1 in self.calls else 1)


@pytest.mark.parametrize("soft_weight", [0.0, 0.8, 1.0])
def test_recovery_gains_back_what_pruning_lost(subject: object, teacher: Teacher, soft_weight: float) -> None:
    pruned = PrunePass().apply(Prune((0.0, 0.5), "l2", 8), subject.model(), Materials(subject))
    seen: list[float] = []
    step = Recover(2, 5e-3, 4.0, soft_weight)
    model = RecoverPass().train(step, pruned, Materials(subject, 0, teacher, on_step=seen.append))
    assert hits(model, subject) > hits(pruned, subject) + 0.05
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) == 2 * 20


def test_recovery_is_deterministic_for_a_seed(subject: object, teacher: Teacher) -> None:
    pruned = PrunePass().apply(Prune((0.5, 0.5), "l2", 8), subject.model(), Materials(subject))
    step = Recover(1, 3e-3, 4.0, 0.8)
    states = [RecoverPass().train(step, pruned, Materials(subject, seed, teacher)).state_dict()
              for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_divergence_is_told_when_the_loss_is_never_a_number(subject: object, teacher: Teacher) -> None:
    broken, notes = Teacher(np.full_like(teacher.outputs, np.nan)), []
    with pytest.raises(TrainingError, match="after 2 rollbacks: the loss is nan in epoch 1"):
        RecoverPass().train(Recover(1, 1e-3, 4.0, 0.5), subject.model(),
                            Materials(subject, 0, broken, note=notes.append))
    assert len(notes) == 2


def test_training_goes_on_from_the_last_epoch_when_the_loss_is_no_number_once(
    subject: object, teacher: Teacher
) -> None:
    pruned = PrunePass().apply(Prune((0.5, 0.5), "l2", 8), subject.model(), Materials(subject))
    notes: list[str] = []
    spoilt = Spoilt(subject, 25)  # the sixth batch of the second epoch
    model = RecoverPass().train(Recover(2, 5e-3, 4.0, 0.5), pruned, Materials(spoilt, 0, teacher, note=notes.append))
    assert notes == ["training epoch 2: the loss is nan; rolled back to the end of epoch 1, "
                     "went on at half the learning rate"]
    assert spoilt.count == 20 + 6 + 20  # that epoch again, whole
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert hits(model, subject) > hits(pruned, subject) + 0.05


def test_a_roll_back_restores_weights_and_halves_the_rate(subject: object, teacher: Teacher) -> None:
    """Spoilt at the very first batch twice, it is a training at a quarter of the rate from the start."""
    step, materials = Recover(1, 8e-3, 4.0, 0.5), Materials(Spoilt(subject, 0, 1), 0, teacher)
    rates: list[float] = []
    optimiser = torch.optim.AdamW.step

    class Noted(torch.optim.AdamW):
        def step(self, *args: object) -> object:
            rates.append(self.param_groups[0]["lr"])
            return optimiser(self, *args)

    torch_adamw, torch.optim.AdamW = torch.optim.AdamW, Noted
    try:
        RecoverPass().train(step, subject.model(), materials)
    finally:
        torch.optim.AdamW = torch_adamw
    assert max(rates) == pytest.approx(2e-3, rel=0.05) and len(rates) == 20


def test_weights_that_are_no_number_are_rolled_back_though_the_loss_was_one(subject: object) -> None:
    notes: list[str] = []
    model, done = subject.model(), []

    def spoil(share: float) -> None:
        if share == 1.0 and not done:
            done.append(model.head.weight.data.fill_(torch.nan))

    train_(model, Materials(subject, note=notes.append), Settings(2, 1e-3, 1.0, 0.0), after_step=spoil)
    assert "head.weight is not finite" in notes[0] and hits(model, subject) > 0.7


def test_groups_have_their_own_rates_and_frozen_parts_stay(subject: object) -> None:
    model, before = subject.model(), subject.model()
    groups = [{"params": [model.head.weight], "lr": 1e-3, "weight_decay": 0.0}, {"params": [model.head.bias]}]
    shares: list[float] = []
    train_(model, Materials(subject), Settings(1, 1e-2, 1.0, 0.0), groups=groups, frozen=[model.stem],
           after_step=shares.append)
    same = {name for name, value in before.state_dict().items() if torch.equal(value, model.state_dict()[name])}
    assert same == set(before.state_dict()) - {"head.weight", "head.bias"}
    assert len(shares) == 20 and shares[-1] == 1.0 and not model.training


def test_kept_layers_are_not_trained(subject: object, teacher: Teacher) -> None:
    model = RecoverPass().train(Recover(1, 5e-3, 4.0, 0.5), subject.model(),
                                Materials(subject, 0, teacher, keep=("stem", "head")))
    before, after = subject.model().state_dict(), model.state_dict()
    same = {name.split(".")[0] for name in before if torch.equal(before[name], after[name])}
    assert same == {"stem", "head"}


def test_parametrised_modules_train(subject: object, teacher: Teacher) -> None:
    class Mask(nn.Module):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("mask", (weight.detach().abs() > weight.detach().abs().median()).float())

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * self.mask

    model = subject.model()
    parametrize.register_parametrization(model.inner, "weight", Mask(model.inner.weight))
    trained = RecoverPass().train(Recover(1, 3e-3, 4.0, 0.5), copy.deepcopy(model), Materials(subject, 0, teacher))
    zeros = model.inner.weight == 0
    assert zeros.float().mean() > 0.45 and torch.equal(trained.inner.weight == 0, zeros)
    assert not torch.equal(trained.inner.weight, model.inner.weight)


def test_self_distillation_can_be_sampled_and_loses_little(subject: object, teacher: Teacher) -> None:
    built = space.build(Scope(("stage1",), {"Conv": 0.9}, (load("host-cpu"),), taps=("inner",)), {})
    values = built.walk(lambda name, knob: True if name == "recover" else knob.nearest(False))
    recipe = built.decode(values)
    assert recipe.names == ("recover",)
    model = RecoverPass().train(Recover(2, 1e-3, 2.0, 0.7), subject.model(), Materials(subject, 0, teacher))
    assert hits(model, subject) >= hits(subject.model(), subject) - 0.01


def test_the_digest_of_a_recipe_without_transfer_is_what_it_was() -> None:
    text = '{"steps":[{"epochs":2,"learning_rate":0.003,"pass":"recover","soft_weight":0.8,"temperature":4.0}],"version":1}'
    assert from_json(text) == Recipe((Recover(2, 0.003, 4.0, 0.8),)) and from_json(text).json == text
    taught = Recipe((Recover(2, 0.003, 4.0, 0.8, "features", 2.0),))
    assert from_json(taught.json) == taught and "features x 2" in taught.label


@pytest.mark.parametrize(("scope", "options", "most"), [
    ({}, ("none",), 8), ({"taps": ("inner",)}, ("none", "features", "attention"), 8),
    ({"students": ("small",)}, ("none",), 32),
])
def test_the_knobs_follow_the_subject(scope: dict, options: tuple, most: int) -> None:
    built = space.build(Scope(("stage1",), {"Conv": 0.9}, (load("host-cpu"),), **scope), {})
    assert built.knobs["recover.transfer"].options == options and built.knobs["recover.epochs"].high == most
    assert ("recover.transfer_weight" in built.knobs) == (len(options) > 1)


@pytest.mark.parametrize(("sabotage", "told"), [
    (lambda model, *a, **k: None, "changed no weight"),
    (lambda model, *a, **k: setattr(model, "head", nn.Linear(32, 5)), "names or shapes"),
    (lambda model, *a, **k: [p.data.add_(1) for p in model.parameters()], "what is kept: head.bias"),
])
def test_the_gate_catches_recovery_that_does_something_else(
    subject: object, monkeypatch: pytest.MonkeyPatch, sabotage: object, told: str
) -> None:
    monkeypatch.setattr(recover, "train_", sabotage)
    with pytest.raises(GateError, match=told):
        RecoverPass().train(Recover(1, 1e-3, 4.0, 0.0), subject.model(), Materials(subject, keep=("head",)))
