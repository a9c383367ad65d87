"""What is kept for later runs: never a wrong hit, never a failed trial, never a foreign file lost."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import load_tiny
from torch import Tensor, nn

import pared
from pared.errors import BudgetError, UserError
from pared.evaluators.artifact import Store
from pared.evaluators.devices import Reading
from pared.evaluators.export import export
from pared.hardware_profiles.load import load
from pared.search import cache as caches
from pared.search.cache import Cache, key
from pared.search.records import Job
from pared.search.trial import Bench, run
from pared.spaces import fingerprint
from pared.spaces.fingerprint import content
from pared.spaces.passes.prune import Prune
from pared.spaces.passes.recover import Recover
from pared.spaces.recipe import Recipe
from pared.spaces.subject import example_inputs
from pared.spaces.teaching import remembered

CUT = Prune((0.5, 0.5), "l2", 1)
SHORT, LONG = Recover(1, 3e-3, 4.0, 0.5), Recover(2, 3e-3, 4.0, 0.5, after=(1,))


def test_what_is_kept_comes_back_and_what_is_damaged_does_not(tmp_path: Path) -> None:
    cache, name = Cache(str(tmp_path)), key("file", 1, "a")
    assert cache.get(name) is None
    cache.put(name, b"bytes\nof\na file", train_s=2.5)
    found = cache.get(name)
    assert found and found.content == b"bytes\nof\na file" and found.notes == {"train_s": 2.5}
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    assert cache.get(name) is None
    cache.put_arrays(name, {"file": np.arange(3), "b/c": np.ones((2, 2))})
    arrays = cache.arrays(name)
    assert arrays is not None and list(arrays) == ["file", "b/c"] and arrays["file"].tolist() == [0, 1, 2]
    cache.put(name, b"no arrays")
    assert cache.arrays(name) is None


def test_a_cache_that_cannot_be_written_is_only_empty(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    cache = Cache(str(tmp_path / "taken"))
    cache.put(key("a"), b"1")
    assert cache.get(key("a")) is None


def test_gc_drops_what_was_unused_longest_and_no_file_of_others(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path))
    names = [key("n", i) for i in range(4)]
    for age, name in enumerate(names):
        cache.put(name, b"x" * 1000)
        os.utime(tmp_path / name, (1e9 + age, 1e9 + age))
    (tmp_path / "thesis.pdf").write_bytes(b"y" * 10_000)
    assert cache.get(names[0])  # used just now
    dropped, freed = cache.gc(2500)
    assert dropped == 2 and freed > 2000
    assert [cache.get(name) is not None for name in names] == [True, False, False, True]
    assert caches.cut(str(tmp_path), "0")["dropped"] == 2 and (tmp_path / "thesis.pdf").exists()


@pytest.mark.parametrize(("size", "told"), [("a lot", "cannot be read"), ("20%", "write 500MB"), ("-1GB", "cannot")])
def test_a_wrong_size_is_refused(tmp_path: Path, size: str, told: str) -> None:
    with pytest.raises(BudgetError, match=told):
        caches.cut(str(tmp_path), size)


def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="nowhere://x"):
        Cache("nowhere://x")


class Net(nn.Module):
    """Trains otherwise than it runs, as told."""

    def __init__(self, drop: float = 0.0, halved: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.drop, self.halved = nn.Dropout(drop), halved

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.inner(x)))
        return self.head(x / 2 if self.halved and self.training else x)


class Smoothed(pared.Classification):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().loss(outputs, targets) * 0.9


def made(model: nn.Module, kind: type = pared.Classification, shift: float = 0.0) -> Any:
    inputs = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32) + np.float32(shift)
    data = (inputs, np.arange(32) % 2)
    return kind(model, data, data, data)


def other_weights() -> nn.Module:
    model = Net()
    with torch.no_grad():
        model.head.bias[0] += 1e-6
    return model


@pytest.mark.parametrize("other", [
    lambda: made(other_weights()), lambda: made(Net(drop=0.1)), lambda: made(Net(halved=True)),
    lambda: made(Net(), Smoothed), lambda: made(Net(), shift=1e-6),
], ids=["weights", "dropout", "how it trains", "loss", "data"])
def test_subjects_that_share_names_and_shapes_differ_in_content(other: Callable[[], Any]) -> None:
    assert content(made(Net())) == content(made(Net())) != content(other())


class Raising(pared.Classification):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("no loss")


class Hanging(pared.Classification):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        time.sleep(2)
        return super().loss(outputs, targets)


@pytest.mark.parametrize("kind", [Raising, Hanging])
def test_a_loss_that_raises_or_hangs_is_equal_to_nothing(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "LIMIT_S", 0.3)
    began = time.perf_counter()
    assert content(made(Net(), kind)) != content(made(Net(), kind))
    assert time.perf_counter() - began < 2


def bench(subject: Any, folder: Path, cache: str) -> Bench:
    """For trials whose files all take one millisecond."""
    store = str(folder / "files")
    file = export(subject.model(), example_inputs(subject)).SerializeToString()
    untouched = Store(store).put(file).sha256
    return Bench(subject, (load("host-cpu"),), store, 1, 0, untouched, {"validation": np.ones(800)},
                 {"host-cpu": 1.0}, {}, remembered(subject.model(), subject.split("train")),
                 content=content(subject), cache=cache)


def score(trial: Bench, *steps: Any) -> Any:
    told: list[str] = []
    outcome = run(Job(0, Recipe(steps).json), trial, lambda *_: Reading(1.0, 1.0, None, None), told.append)
    assert outcome.state == "complete", outcome.reason
    return replace(outcome, notes=[each for each in told if each.startswith("training")])


@pytest.mark.slow
def test_a_training_is_done_once_for_all_runs_and_for_no_other_model(subject: Any, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    first = score(bench(subject, tmp_path / "a", cache), CUT, SHORT)
    again = score(bench(subject, tmp_path / "b", cache), CUT, SHORT)
    assert first.notes and not again.notes and again.train_s == 0
    assert again.sha256 == first.sha256 and again.saved_s == first.trained_s > 0
    changed = load_tiny().trained()
    with torch.no_grad():
        changed.head.weight[0, 0] += 1e-3
    data = {name: (subject.split(name).inputs[0], subject.split(name).targets)
            for name in ("train", "validation", "test")}
    other = score(bench(pared.Classification(changed, **data), tmp_path / "c", cache), CUT, SHORT)
    assert other.notes and other.sha256 != first.sha256
    reseeded = score(replace(bench(subject, tmp_path / "d", cache), seed=1), CUT, SHORT)
    assert reseeded.notes and reseeded.sha256 != first.sha256


@pytest.mark.slow
def test_a_longer_training_goes_on_from_a_shorter_one_to_the_very_same_file(subject: Any, tmp_path: Path) -> None:
    at_once = score(bench(subject, tmp_path / "a", str(tmp_path / "none")), CUT, LONG)
    cache = str(tmp_path / "cache")
    short = score(bench(subject, tmp_path / "b", cache), CUT, SHORT)
    long = score(bench(subject, tmp_path / "b", cache), CUT, LONG)
    assert long.sha256 == at_once.sha256 != short.sha256
    steps = [sum(note.endswith("%") for note in each.notes) for each in (long, short, at_once)]
    assert steps[0] == steps[1] == steps[2] / 2 > 0
