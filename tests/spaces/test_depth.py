import sys

import pytest
import torch
from helpers import ROOT
from structures import IMAGES, TOKENS, HandWritten, Layer, Residual, SelfAttention, Stock, at_hand, built
from torch import Tensor, nn

from pared.errors import GateError
from pared.evaluators.export import export
from pared.spaces.knob import IntRange
from pared.spaces.passes import Scope, depth
from pared.spaces.passes.depth import Bypass, Depth, DepthPass, ranked, removable

TWO, IMAGE = (TOKENS[:2],), (IMAGES[:2],)


class Halves(nn.Module):
    """A layer made of two residual halves is a chain of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Sequential(Half(), Half()), nn.Linear(32, 10)
        self.shift = Shift()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.shift(x)).mean(1))


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Shift(nn.Module):
    """A position embedding passes its input as well, but it is no block."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(12, 32))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.position


class Again(nn.Module):
    """One block used three times, and two blocks that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.thrice, self.one, self.two, self.head = Half(), Half(), Half(), nn.Linear(32, 10)
        self.two.body[1].weight = self.one.body[1].weight

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.thrice(x)
        return self.head(self.two(self.one(x)).mean(1))


class Recurrent(nn.Module):
    """Words in, a residual recurrent layer (left alone, it gives two things), a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(50, 32), nn.LSTM(32, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head((x + self.lstm(x)[0]).mean(1))


def layers(count: int) -> nn.Module:
    return built(HandWritten, *(SelfAttention() for _ in range(count)))


@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"masked": True}], ids=str)
def test_the_layers_of_torchs_encoder_are_blocks_normalised_first_or_last(options: dict[str, bool]) -> None:
    assert removable(built(Stock, **options), TWO) == tuple(f"encoder.layers.{i}" for i in range(3))


def test_residual_convolutions_are_blocks_and_a_chain_of_them_is_not() -> None:
    assert removable(built(Residual), IMAGE) == ("blocks.0", "blocks.1", "blocks.2")
    assert removable(built(Halves), TWO) == ("layer.0", "layer.1")
    assert removable(layers(2), TWO) == ("layers.0", "layers.1")


def test_the_demo_network_has_exactly_one_block_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "fashion_mnist"))
    monkeypatch.delitem(sys.modules, "model", raising=False)
    from model import ResNet8

    sys.modules.pop("model")
    assert removable(built(ResNet8), (IMAGES[:2, :1].repeat(3, 2).repeat(3, 3),)) == ("blocks.0",)
    knob = DepthPass().knobs(Scope((), {}, (), blocks=("blocks.0",)))["blocks"]
    assert knob == IntRange(1, 1)


def test_shared_blocks_and_recurrent_and_embedding_layers_are_left_alone() -> None:
    assert removable(built(Again), TWO) == ()
    words = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(0)).numpy()
    assert removable(built(Recurrent), (words,)) == ()


@pytest.mark.parametrize("keep", ["layers.1", "layers.1.up"])
def test_a_block_of_which_any_part_is_kept_stays(keep: str) -> None:
    model = layers(3)
    assert removable(model, TWO, (keep,)) == ("layers.0", "layers.2")
    with pytest.raises(GateError, match=r"layers\.1: no residual block"):
        DepthPass().apply(Depth(("layers.1",)), model, at_hand(model, TOKENS, keep=(keep,)))


def test_the_block_that_does_least_leaves_first() -> None:
    model = layers(3)
    with torch.no_grad():
        for layer in (model.layers[1].attention.out, model.layers[1].down):
            layer.weight *= 1e-3
            layer.bias *= 1e-3
    blocks = ranked(model, TWO, (), at_hand(model, TOKENS).subject)
    assert blocks[0] == "layers.1" and set(blocks) == set(removable(model, TWO))
    assert ranked(model, TWO, (), None) == removable(model, TWO)


def test_the_model_keeps_a_block_where_it_has_several() -> None:
    scope = Scope((), {}, (), blocks=("b", "a", "c"))
    assert DepthPass().knobs(scope)["blocks"] == IntRange(1, 2)
    assert DepthPass().decode({"blocks": 2}, scope) == Depth(("b", "a"))
    assert DepthPass().refused(Scope((), {}, ()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"masked": True}], ids=str)
@pytest.mark.parametrize("gone", [(0,), (0, 2), (1,)], ids=str)
def test_torchs_encoder_runs_trains_and_exports_without_a_layer(options: dict[str, bool], gone: tuple[int]) -> None:
    model = built(Stock, **options)
    blocks = tuple(f"encoder.layers.{i}" for i in gone)
    shallow = DepthPass().apply(Depth(blocks), model, at_hand(model, TOKENS))
    assert all(isinstance(shallow.get_submodule(path), Bypass) for path in blocks)
    x = torch.from_numpy(TOKENS)
    expected = built(Stock, **options)
    expected.encoder.layers = nn.ModuleList(
        layer for i, layer in enumerate(expected.encoder.layers) if i not in gone)
    with torch.inference_mode():
        torch.testing.assert_close(shallow(x), expected.eval()(x), atol=1e-4, rtol=1e-3)
    shallow.train()(x).sum().backward()
    if gone == (0, 2):  # the conformance suite exports the rest
        export(shallow, TWO)


def test_a_decoder_layer_can_leave_although_it_takes_two_sequences() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 64, batch_first=True), 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x, x.flip(1))

    model = built(Decoder)
    assert removable(model, TWO) == ("body.layers.0", "body.layers.1")


HONEST = depth.remove_


@pytest.mark.parametrize(("sabotage", "reason"), [
    (lambda model, blocks: HONEST(model, ["layers.2"]), "other blocks"),
    (lambda model, blocks: HONEST(model, ["layers.0", "layers.1"]), "other blocks"),
    (lambda model, blocks: None, "as it was"),
    (lambda model, blocks: model.set_submodule("layers.0", nn.ReLU()), "other blocks"),
])
def test_a_sabotaged_removal_is_caught(sabotage: object, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = layers(3)
    there = removable(model, TWO)
    monkeypatch.setattr(depth, "remove_", sabotage)
    monkeypatch.setattr(depth, "removable", lambda *_: there)
    with pytest.raises(GateError, match=reason):
        DepthPass().apply(Depth(("layers.0",)), model, at_hand(model, TOKENS))


def test_a_block_that_its_owner_reads_from_is_not_offered() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = Layer(SelfAttention()), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x * self.layer.norm1.eps).mean(1))

    assert removable(built(Reads), TWO) == ()
