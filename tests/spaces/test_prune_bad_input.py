"""Networks with parts that the dependency graph does not understand: left alone or handled, never corrupted."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pared
from pared.hardware_profiles.load import load
from pared.spaces.materials import Materials
from pared.spaces.passes import _cost
from pared.spaces.passes._importance import CRITERIA
from pared.spaces.passes.prune import Prune, PrunePass, prunable

TOKENS = np.random.default_rng(0).integers(0, 24, (16, 10))
SIGNAL = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)
HOST = load("host-cpu")


class Recurrent(nn.Module):
    """Embedding, a recurrent layer between two linear ones, and a head with something to narrow."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, both: bool = False) -> None:
        super().__init__()
        self.embed, self.before = nn.Embedding(24, 16), nn.Linear(16, 24)
        self.cell = kind(24, 20, num_layers=2, batch_first=True, bidirectional=both)
        self.after, self.head = nn.Linear(40 if both else 20, 32), nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:  # (batch, length)
        x, _ = self.cell(torch.relu(self.before(self.embed(tokens))))
        return self.head(torch.relu(self.after(x)).mean(1))


class Stream(nn.Module):
    """An embedding and linear layers write into one residual stream."""

    def __init__(self, vocabulary: int = 24) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, 24), nn.Parameter(torch.randn(10, 24))
        self.up, self.down, self.head = nn.Linear(24, 48), nn.Linear(48, 24), nn.Linear(24, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


class ConvThenRecurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.GRU) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.cell, self.head = kind(16, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x)))).flatten(2).transpose(1, 2)
        return self.head(self.cell(x)[0][:, -1])


class Tied(nn.Module):
    """Two linear layers hold the very same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.first, self.second = nn.Linear(24, 32), nn.Linear(32, 24), nn.Linear(32, 24)
        self.second.weight = self.first.weight
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.inner(x.flatten(1)[:, :24]))
        return self.head(torch.relu(self.first(y)) + torch.relu(self.second(y)))


CASES: dict[str, tuple[Any, np.ndarray, set[str]]] = {
    "LSTM": (Recurrent, TOKENS, {"after"}),
    "LSTM both ways": (lambda: Recurrent(both=True), TOKENS, {"after"}),
    "GRU": (lambda: Recurrent(nn.GRU), TOKENS, {"after"}),
    "embedding in a stream": (Stream, TOKENS, {"up"}),
    "convolutions before a GRU": (ConvThenRecurrent, SIGNAL, {"a"}),
    "convolutions before an LSTM": (lambda: ConvThenRecurrent(nn.LSTM), SIGNAL, {"a"}),
}
ALLOCATIONS = (("uniform", "l2"), ("global", "taylor"), ("latency", "activation"), ("sensitivity", "fpgm"))


def built(factory: Any) -> nn.Module:
    torch.manual_seed(0)
    return factory().eval()


def materials(factory: Any, inputs: np.ndarray, **more: Any) -> Materials:
    data = (inputs, np.arange(len(inputs)) % 4)
    return Materials(pared.Classification(lambda: built(factory), data, data, data), **more)


@pytest.mark.parametrize("case", CASES)
def test_recurrent_layers_and_embeddings_keep_every_weight(case: str) -> None:
    factory, inputs, narrowed = CASES[case]
    model, mine = built(factory), materials(factory, inputs)
    assert {group.root for group in prunable(model, mine.inputs)} >= narrowed
    for allocation, criterion in ALLOCATIONS:
        step = Prune((), criterion, 4, allocation, 0.3, machine="cpu", prices=_cost.prices(HOST))
        before = copy.deepcopy(model.state_dict())
        pruned = PrunePass().apply(step, model, mine)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        same = [name for name in before if name.startswith("embed") or "hh" in name]
        assert all(torch.equal(before[name], pruned.state_dict()[name]) for name in same)
        assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_vocabulary_as_large_as_the_width_is_not_taken_for_channels(criterion: str) -> None:
    model = built(Stream)
    assert {group.root for group in prunable(model, (TOKENS[:2],))} == {"up"}


def test_layers_that_share_one_weight_stay_shared_or_whole() -> None:
    model = built(Tied)
    step = Prune((), "l2", 8, "uniform", 0.5)
    pruned = PrunePass().apply(step, model, materials(Tied, SIGNAL))
    assert torch.equal(pruned.first.weight, pruned.second.weight)
    assert pruned.inner.out_features == 16


def test_nothing_is_left_to_narrow_when_all_is_kept() -> None:
    keep = ("up", "down", "head")
    assert prunable(built(Stream), (TOKENS[:2],), keep) == ()
    with pytest.raises(pared.errors.GateError, match="no layer"):
        PrunePass().apply(Prune((), "l2", 4, "uniform", 0.5), built(Stream), materials(Stream, TOKENS, keep=keep))
