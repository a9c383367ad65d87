"""How much each layer minds, measured on a real network."""

import json
from functools import cache, partial

import numpy as np
import onnx
import pytest
import torch
from helpers import load_tiny
from torch import Tensor, nn

from pared.errors import RunError
from pared.evaluators.export import export
from pared.spaces import _layerwise
from pared.spaces._layerwise import key, measure
from pared.spaces._replay import Replay
from pared.spaces.sensitivity import Sensitivity, from_json


@cache
def tiny() -> tuple[nn.Module, onnx.ModelProto, tuple[np.ndarray, ...]]:
    subject = load_tiny().subject()
    model, examples = subject.model(), subject.split("calibration").inputs
    return model, export(model, tuple(array[:2] for array in examples)), examples


@cache
def found() -> Sensitivity:
    return measure(*tiny())


class Joined(nn.Module):
    """A layer that is called twice, writing into what it was given, and one behind another branch."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.side, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 8) -> (batch, 3)
        left = self.act(self.twice(self.act(self.twice(x))))
        return self.head(left + self.side(x))


def joined(seed: int = 0) -> tuple[nn.Module, tuple[np.ndarray, ...]]:
    torch.manual_seed(seed)
    return Joined().eval(), (np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32),)


def test_every_layer_and_group_of_the_file_is_in_it() -> None:
    names = {"stem.0.weight", "inner.weight", "down.0.weight", "head.weight"}
    assert set(found().bits) == set(found().int8) == set(found().layers) == names
    assert set(found().ratios) == {"inner", "down.0"}
    assert all(set(row) == {8, 4, 3, 2} for row in found().bits.values())
    assert all(set(row) == {0.25, 0.5, 0.75} for row in found().ratios.values())


def test_fewer_bits_and_fewer_channels_cost_more() -> None:
    for name, row in found().bits.items():
        assert 0 < row[8] < row[4] < row[2]
        assert name == "stem.0.weight" or row[4] < row[3] < row[2]  # nine weights a filter: luck decides
    for row in found().ratios.values():
        assert 0 < row[0.25] < row[0.5] < row[0.75]
    assert all(found().int8[name] > found().bits[name][8] for name in found().int8)


def test_the_rise_is_what_the_changed_model_itself_loses() -> None:
    model, _, examples = tiny()
    changed = load_tiny().trained().eval()
    with torch.no_grad():
        weight = changed.inner.weight
        scale = weight.abs().amax((1, 2, 3), keepdim=True) / 7
        weight.copy_((weight / scale).round().clamp(-7, 7) * scale)
        x = torch.from_numpy(examples[0][: found().examples])
        want, got = model.eval()(x).double(), changed(x).double()
    rise = float(((got - want) ** 2).sum() / (want**2).sum())
    assert found().bits["inner.weight"][4] == pytest.approx(rise, rel=0.02)


def test_rounding_a_weight_before_or_after_its_batch_norm_is_the_same() -> None:
    model, file, _ = tiny()
    folded = next(onnx.numpy_helper.to_array(t) for t in file.graph.initializer if t.name == "stem.0.weight")
    raw = model.stem[0].weight.detach().numpy()
    assert not np.allclose(folded, raw)
    for bits in (8, 4):
        unit = [np.rint(w / np.abs(w).max((1, 2, 3), keepdims=True) * (2 ** (bits - 1) - 1)) for w in (folded, raw)]
        signs = np.sign(folded.reshape(len(folded), -1)[:, :1] * raw.reshape(len(raw), -1)[:, :1])
        differing = np.mean(unit[0] != unit[1] * signs.reshape(-1, 1, 1, 1))
        assert differing < 0.01  # halves may fall to either side


def test_the_model_is_left_as_it_was() -> None:
    model, file, examples = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, file, examples)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model.head.forward).__name__ == "method"


def test_kept_layers_are_not_in_it() -> None:
    kept = measure(*tiny(), keep=("inner", "down"))
    assert set(kept.bits) == {"stem.0.weight", "head.weight"} and not kept.ratios


def test_it_goes_through_json_and_back() -> None:
    assert from_json(json.loads(json.dumps(found().to_json()))) == found()


@pytest.mark.parametrize("plain", [{}, {"format": 0}, {"format": 1, "bits": 3}, []])
def test_other_json_is_told(plain: object) -> None:
    with pytest.raises(RunError):
        from_json(plain)  # type: ignore[arg-type]


def test_progress_is_told_from_nothing_to_all() -> None:
    done: list[float] = []
    measure(*tiny(), on_step=done.append)
    assert done == sorted(done) and 0 < done[0] < 0.1 and done[-1] == 1


def test_the_work_is_bounded_when_a_model_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_layerwise, "BUDGET", 1.0)
    assert measure(*tiny()).examples == _layerwise.FEWEST
    assert found().examples == _layerwise.EXAMPLES


@pytest.mark.parametrize("name", ["twice.weight", "side.weight", "head.weight"])
def test_what_is_replayed_is_what_the_whole_model_gives(name: str) -> None:
    model, examples = joined()
    replay = Replay(model, examples)
    weight = dict(model.named_parameters())[name].detach() * 1.1
    got = replay.outputs({name: weight})
    changed = joined()[0]
    with torch.no_grad():
        dict(changed.named_parameters())[name].copy_(weight)
        want = changed(torch.from_numpy(examples[0])).double()
    assert torch.allclose(got, want, atol=1e-6)
    assert torch.equal(replay.outputs({}), replay.untouched), "a change stayed"


def test_layers_before_a_change_are_not_computed_again() -> None:
    model, examples = joined()
    calls: list[str] = []

    def counted(name: str, heavy):
        def forward(x: Tensor) -> Tensor:
            calls.append(name)
            return heavy(x)

        return forward

    replay = Replay(model, examples)
    for name in ("twice", "side", "head"):
        module = replay.model.get_submodule(name)
        remembering = module.forward
        module.forward = partial(remembering.func, module, counted(name, remembering.args[1]))
    replay.outputs({"head.weight": model.head.weight.detach() * 2})
    assert calls == ["head"]


def test_the_key_differs_when_models_have_the_same_names_and_shapes() -> None:
    first, examples = joined(0)
    second, _ = joined(1)
    files = [export(model, (examples[0][:2],)).SerializeToString() for model in (first, second)]
    assert files[0] != files[1] and list(first.state_dict()) == list(second.state_dict())
    known = key(first, files[0], examples)
    assert known == key(joined(0)[0], files[0], examples)
    others = [key(second, files[1], examples), key(second, files[0], examples), key(first, files[1], examples),
              key(first, files[0], (examples[0] + 1,)), key(first, files[0], examples, ("head",))]
    assert len({known, *others}) == 6


def test_the_key_differs_when_the_code_or_its_settings_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model, file, examples = tiny()
    known = key(model, file.SerializeToString(), examples)
    for name, value in (("code", lambda: "other"), ("EXAMPLES", 1), ("BITS", (8,)), ("BUDGET", 1.0)):
        with monkeypatch.context() as patch:
            patch.setattr(_layerwise, name, value)
            assert key(model, file.SerializeToString(), examples) != known


def test_outputs_that_are_no_numbers_give_a_figure_that_can_be_written_down(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file, examples = tiny()
    monkeypatch.setattr(_layerwise, "_rounding", lambda name, weight, bits, block: lambda: {name: weight * torch.nan})
    broken = measure(model, file, examples)
    assert all(rise == _layerwise.WORST for row in broken.bits.values() for rise in row.values())
    json.dumps(broken.to_json(), allow_nan=False)


class Odd(nn.Module):
    """Grouped and transposed convolutions, batch norm after an in-place ReLU, a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.grouped, self.up = nn.Conv2d(16, 16, 3, groups=4), nn.ConvTranspose2d(16, 8, 3, stride=2)
        self.mix, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
        self.again.weight = self.mix.weight

    def forward(self, x: Tensor) -> Tensor:  # (batch, 3, 8, 8) -> (batch, 8)
        x = self.up(self.grouped(self.norm(torch.relu_(self.first(x))))).mean((2, 3))
        return self.again(torch.relu(self.mix(x)))


def odd(kind: str) -> tuple[nn.Module, np.ndarray]:
    torch.manual_seed(0)
    dice = np.random.default_rng(0)
    if kind == "convolutions":
        return Odd().eval(), dice.normal(size=(20, 3, 8, 8)).astype(np.float32)
    encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(32 * 6, 5))
    return model.eval(), dice.normal(size=(20, 6, 32)).astype(np.float32)


@pytest.mark.parametrize(("kind", "names"), [
    ("convolutions", {"first.weight", "grouped.weight", "up.weight"}),
    ("attention", {"0.self_attn.in_proj_weight", "0.self_attn.out_proj.weight", "0.linear1.weight", "2.weight"}),
])
def test_odd_models_are_measured_as_far_as_their_weights_are_known(kind: str, names: set[str]) -> None:
    model, data = odd(kind)
    measured = measure(model, export(model, (data[:2],)), (data,))
    assert names <= set(measured.bits)
    assert all(0 < row[8] < row[2] < 1 for row in measured.bits.values())
