import copy

import numpy as np
import pytest
import torch
from torch import nn

import pared
from pared.errors import GateError
from pared.spaces.materials import Materials, Teacher
from pared.spaces.passes import recover
from pared.spaces.passes.recover import Recover, RecoverPass
from pared.spaces.subject import Split, example_inputs
from pared.spaces.taps import matched, spaced, taps
from pared.spaces.teaching import ATTENTION, FEATURES, Pupil, remembered


class Tokens(nn.Module):
    def __init__(self, layers: int, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.encoder = nn.Sequential(
            *(nn.TransformerEncoderLayer(width, 2, 32, 0.0, batch_first=True) for _ in range(layers)))
        self.head = nn.Linear(width, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(tokens)).mean(1))


TOKENS = (np.random.default_rng(0).integers(0, 20, (64, 12)),)


def lessons(subject: object) -> Teacher:
    """The untouched model's outputs, features and attention on the training split."""
    paths = taps(subject.model(), example_inputs(subject))
    return remembered(subject.model(), subject.split("train"), paths, (FEATURES, ATTENTION))


def test_taps_are_the_last_layers_at_each_resolution_of_a_convolutional_net(subject: object) -> None:
    assert taps(subject.model(), example_inputs(subject)) == ("inner", "down")


def test_taps_are_the_blocks_of_a_net_over_tokens() -> None:
    assert taps(Tokens(3), TOKENS) == tuple(f"encoder.{i}" for i in range(3))


def test_taps_skip_what_depth_pruning_replaced() -> None:
    shallow = Tokens(4)
    shallow.encoder[1] = nn.Identity()
    assert taps(shallow, TOKENS) == ("encoder.0", "encoder.2", "encoder.3")


def test_a_net_without_inner_shapes_has_no_taps() -> None:
    assert taps(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (np.zeros((2, 4), np.float32),)) == ()


@pytest.mark.parametrize(("student", "teacher", "pairs"), [
    ("ab", "ABCD", ["aB", "bD"]), ("abc", "ABC", ["aA", "bB", "cC"]), ("abcd", "AB", ["bA", "dB"]),
    ("abc", "ABCD", ["aB", "bC", "cD"]), ("", "AB", []),
])
def test_matching_ends_with_the_last_and_is_even_when_depths_differ(
    student: str, teacher: str, pairs: list[str]
) -> None:
    assert ["".join(pair) for pair in matched(student, teacher)] == pairs


def test_spacing_takes_all_when_there_are_fewer() -> None:
    assert spaced("abc", 4) == ("a", "b", "c") and spaced((), 4) == ()


def test_what_is_remembered_is_small_and_in_the_order_of_the_examples(subject: object) -> None:
    data = subject.split("train").take(slice(0, 300))
    found = remembered(subject.model(), data, ("inner", "down"), (FEATURES, ATTENTION))
    assert {name: (a.shape, a.dtype.name) for name, a in found.maps.items()} == {
        "inner": ((300, 16, 4, 4), "float16"), "down": ((300, 32, 4, 4), "float16")}
    looks = {name: a.shape for name, a in found.attention.items()}
    assert looks == {"inner": (300, 1, 8, 8), "down": (300, 1, 7, 7)}
    alone = remembered(subject.model(), data.take(slice(290, 300)), ("down",), (FEATURES,))
    np.testing.assert_allclose(found.maps["down"][290:], alone.maps["down"], rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(found.outputs[290:], alone.outputs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.square(found.attention["down"].astype(float)).sum((1, 2, 3)), 1, rtol=1e-2)
    assert not alone.attention and not remembered(subject.model(), data, ("down",)).maps


def test_tokens_are_remembered_by_width_and_position() -> None:
    data = Split(TOKENS, np.zeros(64, np.int64))
    found = remembered(Tokens(2), data, ("encoder.1",), (FEATURES, ATTENTION))
    assert found.maps["encoder.1"].shape == (64, 16, 12, 1)
    assert found.attention["encoder.1"].shape == (64, 1, 12, 1)


@pytest.mark.parametrize("transfer", [FEATURES, ATTENTION])
def test_transfer_alone_brings_the_student_nearer_to_the_teacher(subject: object, transfer: str) -> None:
    """Inside, not at the outputs: labels and soft targets are left out of the comparison."""
    narrow = load_narrow(subject)
    materials = Materials(subject, 0, lessons(subject))
    kept = getattr(materials.teacher, "maps" if transfer == FEATURES else "attention")
    far = distance(RecoverPass().train(Recover(1, 3e-3, 4.0, 0.5), narrow, materials), kept, transfer, subject)
    taught = RecoverPass().train(Recover(1, 3e-3, 4.0, 0.5, transfer, 5.0), narrow, materials)
    assert distance(taught, kept, transfer, subject) < 0.9 * far
    assert [name for name, _ in taught.named_parameters()] == [name for name, _ in narrow.named_parameters()]


def load_narrow(subject: object) -> nn.Module:
    from helpers import load_tiny

    torch.manual_seed(0)
    return load_tiny().TinyNet(8)


def distance(model: nn.Module, kept: dict, transfer: str, subject: object) -> float:
    """Share of the teacher's maps that the best linear reading of the student's does not explain."""
    data = subject.split("train")
    mine = remembered(copy.deepcopy(model), data, tuple(kept), (transfer,))
    found = []
    for path, theirs in kept.items():
        ours = {**mine.maps, **mine.attention}[path].astype(float)
        theirs = theirs.astype(float)
        if transfer == ATTENTION:
            found.append(np.square(ours - theirs).sum((1, 2, 3)).mean())
        else:
            x, y = (a.transpose(0, 2, 3, 1).reshape(-1, a.shape[1]) for a in (ours, theirs))
            x = np.c_[x, np.ones(len(x))]
            found.append(np.square(y - x @ np.linalg.lstsq(x, y)[0]).mean() / np.square(y).mean())
    return float(np.mean(found))


def test_a_shallower_net_over_tokens_is_taught_by_a_deeper_one() -> None:
    torch.manual_seed(0)
    data = (TOKENS[0], np.arange(64) % 3)
    subject = pared.Classification(Tokens(4), data, data, data)
    shallow = Tokens(2, width=8)
    step = Recover(2, 3e-3, 4.0, 0.5, FEATURES, 1.0)
    trained = RecoverPass().train(step, shallow, Materials(subject, 0, lessons(subject)))
    assert trained.state_dict().keys() == shallow.state_dict().keys()


def test_transfer_is_deterministic_for_a_seed(subject: object) -> None:
    narrow, teacher = load_narrow(subject), lessons(subject)
    step = Recover(1, 3e-3, 4.0, 0.5, FEATURES, 1.0)
    one, two = (RecoverPass().train(step, narrow, Materials(subject, 0, teacher)).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("teacher", "net", "told"), [
    (False, None, "teacher is not remembered"),
    (True, nn.Sequential(nn.Flatten(), nn.Linear(196, 10)), "no layer like"),
])
def test_transfer_is_refused_when_there_is_nothing_to_compare(
    subject: object, teacher: bool, net: nn.Module | None, told: str
) -> None:
    full = lessons(subject)
    materials = Materials(subject, 0, full if teacher else Teacher(full.outputs))
    with pytest.raises(GateError, match=told):
        RecoverPass().train(Recover(1, 1e-3, 4.0, 0.5, ATTENTION, 1.0), net or subject.model(), materials)


def test_the_gate_catches_transfer_that_is_left_out(subject: object, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, materials = recover.train_, Materials(subject, 0, lessons(subject))
    monkeypatch.setattr(recover, "train_", lambda *a, extra=None, **k: whole(*a, **k))
    for transfer in (FEATURES, ATTENTION):
        with pytest.raises(GateError, match="no part of the training"):
            RecoverPass().train(Recover(1, 1e-3, 4.0, 0.5, transfer, 1.0), subject.model(), materials)


def test_the_gate_catches_projectors_that_learn_nothing(
    subject: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = Pupil.term
    monkeypatch.setattr(Pupil, "term", lambda self, rows: term(self, rows).detach())
    with pytest.raises(GateError, match="no part of the training"):
        RecoverPass().train(Recover(1, 1e-3, 4.0, 0.5, FEATURES, 1.0), subject.model(),
                            Materials(subject, 0, lessons(subject)))


def test_a_grid_is_not_compared_with_a_row_of_tokens(subject: object) -> None:
    full = lessons(subject)
    tokens = Teacher(full.outputs, attention={"blocks.0": np.zeros((2500, 1, 12, 1), np.float16)})
    with pytest.raises(GateError, match="no layer like"):
        RecoverPass().train(Recover(1, 1e-3, 4.0, 0.5, ATTENTION, 1.0), subject.model(), Materials(subject, 0, tokens))
