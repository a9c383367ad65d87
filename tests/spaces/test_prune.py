import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pared
from pared.errors import GateError
from pared.spaces.materials import Materials
from pared.spaces.passes import prune
from pared.spaces.passes.prune import Prune, PrunePass, cut_, narrowed, prunable, stages_of

IMAGE = (np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32),)


class Permuted(nn.Module):
    """A Linear behind permute and flatten: the dependency graph cuts its wrong columns."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.head(x.permute(0, 2, 3, 1).flatten(1))


class LateNorm(nn.Module):
    """Batch norm after the activation: a zeroed channel still sends its shift."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.b, self.head = nn.Conv2d(16, 8, 3), nn.Linear(8, 4)
        self.norm.bias.data.normal_()
        self.norm.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.relu(self.a(x)))
        return self.head(torch.relu(self.b(x)).mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Hardswish(),
            nn.Conv2d(16, 24, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, groups=4, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(24, 12, 2, 2), nn.ReLU(), nn.Conv2d(12, 12, 1))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Constant(nn.Module):
    """Attention whose number of heads and width are constants: cutting the width breaks it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(8, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 3, 8, 8)
        x = self.embed(x.flatten(1, 2))
        q, k, v = self.qkv(self.norm(x)).reshape(len(x), -1, 3, 4, 8).permute(2, 0, 3, 1, 4)
        x = x + self.out((torch.softmax(q @ k.transpose(2, 3), -1) @ v).transpose(1, 2).reshape(x.shape))
        return self.head((x + self.down(nn.functional.gelu(self.up(x)))).mean(1))


class Shared(nn.Module):
    """One convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.twice(torch.relu(self.twice(x)))).mean((2, 3)))


def with_model(model: nn.Module, images: np.ndarray = IMAGE[0], **more: Any) -> Materials:
    """Materials whose subject is this model, with these images for every split, and the label 0."""
    data = (images, [0] * len(images))
    return Materials(pared.Classification(model, data, data, data), **more)


def built(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def roots(model: nn.Module) -> set[str]:
    return {group.root for group in prunable(model, IMAGE)}


def test_a_channel_behind_permute_and_flatten_is_left_alone() -> None:
    assert roots(built(Permuted)) == {"a"}


def test_the_gate_catches_the_wrong_columns_of_a_permuted_linear() -> None:
    model = built(Permuted)
    pruned = copy.deepcopy(model)
    removed = cut_(pruned, {"b": 8}, "l2", IMAGE)
    with pytest.raises(GateError, match="wrong weights"):
        prune.check_equivalent(model, pruned, removed, IMAGE)


@pytest.mark.parametrize(("kind", "safe"), [
    (LateNorm, {"a", "b"}), (Constant, {"up"}), (Shared, {"twice"}),
])
def test_only_what_can_be_cut_safely_is_offered(kind: type[nn.Module], safe: set[str]) -> None:
    assert roots(built(kind)) == safe


def test_depthwise_and_transposed_convolutions_are_narrowed_grouped_ones_left_alone() -> None:
    model = built(Depthwise)
    found = roots(model)
    assert {"body.0", "body.8"} <= found and "body.6" not in found


@pytest.mark.parametrize("kind", [Permuted, LateNorm, Depthwise, Constant, Shared])
@pytest.mark.parametrize("criterion", sorted(prune.CRITERIA))
def test_pruned_means_equivalent_and_smaller(kind: type[nn.Module], criterion: str) -> None:
    model = built(kind)
    if criterion == "bn_scale" and kind is not LateNorm:
        pytest.skip("no batch norm")
    weights = copy.deepcopy(model.state_dict())
    count = len(stages_of(prunable(model, IMAGE)))
    pruned = PrunePass().apply(Prune((0.5,) * count, criterion, 4), model, with_model(model))
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_batch_norm_scales_are_refused_when_no_group_has_a_batch_norm() -> None:
    model = built(Shared)
    with pytest.raises(GateError, match="no group of this model has a batch norm"):
        PrunePass().apply(Prune((0.5,), "bn_scale", 4), model, with_model(model))


def test_pruning_is_deterministic(tiny: object, subject: object) -> None:
    once, twice = (PrunePass().apply(Prune((0.5, 0.5), "l2", 8), tiny.trained().eval(),
                                     Materials(subject)).state_dict() for _ in range(2))
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_widths_are_multiples_of_the_step_and_monotonic() -> None:
    widths = [narrowed(40, ratio / 10, 8) for ratio in range(10)]
    assert widths == sorted(widths, reverse=True)
    assert all(width % 8 == 0 and width >= 8 for width in widths)
    assert narrowed(6, 0.5, 8) == 6  # narrower than a step: left as it is


def test_a_pass_that_removes_nothing_is_refused(tiny: object, subject: object) -> None:
    with pytest.raises(GateError, match="removes nothing"):
        PrunePass().apply(Prune((0.1, 0.1), "l2", 8), tiny.trained().eval(), Materials(subject))


@pytest.mark.parametrize(("sabotage", "told"), [
    (lambda cut: lambda model, drop, inputs: {path: [(i + 1) % 16 for i in rows]
                                              for path, rows in cut(model, drop, inputs).items()}, "other channels"),
    (lambda cut: lambda model, drop, inputs: cut(model, {root: [(i + 1) % 16 for i in rows]
                                                         for root, rows in drop.items()}, inputs), "other channels"),
    (lambda cut: lambda model, drop, inputs: {f"{root}.weight": rows for root, rows in drop.items()}, "was to have"),
    (lambda cut: lambda model, drop, inputs: {path: rows for path, rows in cut(model, drop, inputs).items()
                                              if path.endswith("weight") and "norm" not in path}, "wrong weights"),
], ids=["claims others", "takes others", "does nothing", "forgets the norm"])
def test_a_sabotaged_cut_is_caught(sabotage: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "remove_", sabotage(prune.remove_))
    model = built(LateNorm)
    with pytest.raises(GateError, match=told):
        PrunePass().apply(Prune((0.5, 0.0), "l1", 4), model, with_model(model))
