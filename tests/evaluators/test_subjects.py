import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY
from torch.utils.data import DataLoader, TensorDataset

import pared
from pared.errors import SubjectError
from pared.evaluators.subjects.find import check, find


@pytest.fixture(autouse=True)
def _imports_are_put_back() -> Iterator[None]:
    """`find` makes the user's folder importable, here a temporary one with a module of the same name."""
    path, tiny = list(sys.path), sys.modules.get("tiny")
    yield
    sys.path[:] = path
    sys.modules.pop("tiny", None)
    if tiny:
        sys.modules["tiny"] = tiny


X, Y = np.ones((8, 4), np.float32), np.arange(8) % 2


def classification(**changes: object) -> pared.Classification:
    given = {"model": torch.nn.Linear(4, 2), "train": (X, Y), "validation": (X, Y), "test": (X, Y), **changes}
    return pared.Classification(**given)


def test_arrays_tensors_and_loaders_give_the_same_split() -> None:
    tensors = (torch.from_numpy(X), torch.from_numpy(Y))
    loader = DataLoader(TensorDataset(*tensors), batch_size=3)
    for data in ((X, Y), tensors, loader):
        split = classification(train=data).split("train")
        assert np.array_equal(split.inputs[0], X) and np.array_equal(split.targets, Y)


def test_model_is_a_fresh_copy_in_evaluation_mode() -> None:
    subject = classification()
    once, twice = subject.model(), subject.model()
    assert once is not twice and not once.training
    assert isinstance(subject, pared.Subject)


def test_several_inputs_are_a_tuple() -> None:
    split = classification(model=torch.nn.Bilinear(4, 4, 2), train=((X, X), Y), validation=((X, X), Y),
                           test=((X, X), Y)).split("train")
    assert len(split.inputs) == 2


@pytest.mark.parametrize(("changes", "told"), [
    ({"validation": (X[:0], Y[:0])}, "validation split.*empty"),
    ({"test": []}, "test split is empty"),
    ({"train": (X, Y[:5])}, "differ in length"),
    ({"validation": (X[:, :3], Y)}, "shape"),
    ({"train": (X, Y.astype(np.float32))}, "must be integers"),
])
def test_data_that_do_not_fit_are_told(changes: dict, told: str) -> None:
    with pytest.raises(SubjectError, match=told):
        classification(**changes)


def test_find_reads_a_file_and_calls_a_factory() -> None:
    assert find(f"{TINY.name}:subject", TINY.parent).name == "TinyNet"


@pytest.mark.parametrize(("reference", "told"), [
    ("tiny.py", "module:object"),
    ("nowhere.py:subject", "no file"),
    ("tiny.py:subjekt", "has no 'subjekt'"),
    ("no_such_module:x", "cannot import"),
    ("tiny.py:DATA", "not a subject"),
    ("broken.py:subject", "raised ZeroDivisionError"),
])
def test_find_tells_what_is_wrong(reference: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "tiny.py").symlink_to(TINY)
    with pytest.raises(SubjectError, match=told):
        find(reference, tmp_path)


def test_wrong_shapes_are_told_before_anything_starts() -> None:
    with pytest.raises(SubjectError, match=r"refuses inputs of shape \(2, 4\)"):
        check(classification(model=torch.nn.Linear(5, 2)))
