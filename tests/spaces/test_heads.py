import copy

import numpy as np
import pytest
import torch
from structures import DIM, TOKENS, HandWritten, SelfAttention, Stock, at_hand, built
from torch import Tensor, nn

from pared.errors import GateError
from pared.evaluators.export import export
from pared.spaces.passes import Scope, heads
from pared.spaces.passes._attention import Attention
from pared.spaces.passes.heads import Heads, HeadsPass, removable

pytestmark = pytest.mark.slow

TWO = (TOKENS[:2],)
STOCK = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


class PerHeadMask(nn.Module):
    """Each head has a mask of its own, built for a constant number of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(4, x.shape[1], x.shape[1], dtype=torch.bool).triu(1).repeat(x.shape[0], 1, 1)
        return self.head(self.attention(x, x, x, attn_mask=mask)[0].mean(1))


class Tied(nn.Module):
    """Two layers with one and the same attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SelfAttention()
        self.second, self.head = self.first, nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Linear(32, 96), nn.LSTM(96, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0].mean(1))


class Decoder(nn.Module):
    """Causal self-attention, and attention to another sequence, as torch's decoder has them."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)
        self.decoder, self.head = nn.TransformerDecoder(layer, 2), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.decoder(x, x.flip(1), tgt_mask=mask, tgt_is_causal=True).mean(1))


def found(model: nn.Module, keep: tuple[str, ...] = ()) -> dict[str, int]:
    return {site.name: site.heads for site in removable(model, TWO, keep)}


def test_attention_is_found_by_trying_when_the_head_count_follows_from_the_weights() -> None:
    model = built(HandWritten)
    assert found(model) == {f"layers.{i}.attention": 4 for i in range(3)}
    assert [site.interleaved for site in removable(model, TWO)] == [False, False, True]
    assert found(built(Stock)) == {f"encoder.layers.{i}.self_attn": 4 for i in range(3)}
    assert len(found(built(Decoder))) == 4


def test_constant_head_counts_are_left_alone_with_a_reason() -> None:
    model = built(HandWritten, SelfAttention(constant=True))
    assert found(model) == {}
    assert "constant" in HeadsPass().refused(Scope((), {}, ()))
    with pytest.raises(GateError, match="removes no attention head"):
        HeadsPass().apply(Heads(0.5), model, at_hand(model, TOKENS))


@pytest.mark.parametrize("kind", [PerHeadMask, Tied, Recurrent])
def test_what_only_looks_like_attention_or_cannot_lose_a_head_is_left_alone(kind: type[nn.Module]) -> None:
    assert found(built(kind)) == {}


@pytest.mark.parametrize("keep", ["encoder.layers.1", "encoder.layers.1.self_attn", "encoder.layers.1.self_attn.out_proj"])
def test_kept_attention_keeps_its_heads_and_its_type(keep: str) -> None:
    model = built(Stock)
    assert set(found(model, (keep,))) == {"encoder.layers.0.self_attn", "encoder.layers.2.self_attn"}
    cut = HeadsPass().apply(Heads(0.5), model, at_hand(model, TOKENS, keep=(keep,)))
    assert type(cut.encoder.layers[1].self_attn) is nn.MultiheadAttention
    assert torch.equal(cut.encoder.layers[1].self_attn.in_proj_weight, model.encoder.layers[1].self_attn.in_proj_weight)


@STOCK
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 24, "vdim": 40}], ids=str)
@pytest.mark.parametrize("masks", ["none", "causal", "padding", "both", "float"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_the_rebuilt_attention_computes_what_torchs_does(
    batch_first: bool, options: dict[str, int], masks: str, need_weights: bool
) -> None:
    torch.manual_seed(0)
    stock = nn.MultiheadAttention(32, 4, batch_first=batch_first, **options).eval()
    query, key, value = (torch.randn(3, 7, options.get(name, 32)) for name in ("qdim", "kdim", "vdim"))
    if not batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    causal, padding = torch.ones(7, 7, dtype=torch.bool).triu(1), torch.arange(7).expand(3, 7) > 4
    given = {"none": {}, "causal": {"attn_mask": causal}, "padding": {"key_padding_mask": padding},
             "both": {"attn_mask": causal, "key_padding_mask": padding},
             "float": {"attn_mask": torch.randn(7, 7)}}[masks]
    for average in (True, False):
        more = {"need_weights": need_weights, "average_attn_weights": average, **given}
        want, got = (module(query, key, value, **more) for module in (stock, Attention(stock)))
        torch.testing.assert_close(got[0], want[0], atol=1e-5, rtol=1e-4)
        assert (want[1] is None) == (got[1] is None)
        if want[1] is not None:
            torch.testing.assert_close(got[1], want[1], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@STOCK
@pytest.mark.parametrize("options", [
    {}, {"norm_first": True}, {"masked": True}, {"bias": False}, {"activation": "gelu", "masked": True}], ids=str)
def test_torchs_encoder_gives_the_zeroed_heads_result_in_every_mode(options: dict[str, object]) -> None:
    """Its fused kernel, its nested tensors and its training path all read the attention's insides."""
    model = built(Stock, **options)
    sites = removable(model, TWO)
    cut = HeadsPass().apply(Heads(0.5), model, at_hand(model, TOKENS))
    left = {site.name: cut.get_submodule(site.name).num_heads for site in sites}
    assert sum(left.values()) == 6 and min(left.values()) >= 1
    zeroed = copy.deepcopy(model)
    plan = heads.chosen(heads.opened(model, TWO), sites, 0.5, at_hand(model, TOKENS).subject)
    with torch.no_grad():
        for site, gone in plan.items():
            zeroed.get_submodule(site.out).weight[:, site.columns(gone)] = 0
    x = torch.from_numpy(TOKENS)
    with torch.inference_mode():
        torch.testing.assert_close(cut(x), zeroed(x), atol=1e-4, rtol=1e-3)
    export(cut, TWO)
    for module in cut.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    cut.train()(x).sum().backward()
    assert all(p.grad is not None for p in cut.parameters())


def test_the_least_active_heads_leave_first() -> None:
    model = built(HandWritten, SelfAttention())
    with torch.no_grad():
        model.layers[0].attention.out.weight[:, DIM : 3 * DIM] *= 1e-3
    site, = removable(model, TWO)
    subject = at_hand(model, TOKENS).subject
    assert heads.chosen(model, (site,), 0.5, subject) == {site: [1, 2]}
    assert heads.chosen(model, (site,), 1.0, subject)[site] != [0, 1, 2, 3]  # one stays


def test_two_settings_are_as_monotonic_as_their_ratios() -> None:
    model = built(Stock)
    counts = [sum(p.numel() for p in HeadsPass().apply(Heads(r), model, at_hand(model, TOKENS)).parameters())
              for r in (0.125, 0.25, 0.5, 0.75)]
    assert counts == sorted(set(counts), reverse=True)


def other_heads(model: nn.Module, site: heads.Site, gone: list[int]) -> None:
    HONEST(model, site, [(head + 1) % site.heads for head in gone])


def other_scale(model: nn.Module, site: heads.Site, gone: list[int]) -> None:
    HONEST(model, site, gone)
    with torch.no_grad():
        model.get_submodule(site.out).weight.mul_(1.1)


def nothing(model: nn.Module, site: heads.Site, gone: list[int]) -> None:
    pass


HONEST = heads.remove_


@pytest.mark.parametrize(("sabotage", "reason"), [
    (other_heads, "other heads"), (other_scale, "other heads"), (nothing, "was to lose")])
def test_a_sabotaged_cut_is_caught(sabotage: object, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(Stock)
    sites = removable(model, TWO)
    monkeypatch.setattr(heads, "remove_", sabotage)
    monkeypatch.setattr(heads, "removable", lambda *_: sites)
    with pytest.raises(GateError, match=reason):
        HeadsPass().apply(Heads(0.5), model, at_hand(model, TOKENS))


def test_attention_that_would_be_rebuilt_wrongly_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attention, "_split", lambda self, x: x.unflatten(-1, (self.head_dim, -1)).permute(0, 3, 1, 2))
    model = built(Stock)
    assert found(model) == {}
    assert np.isfinite(model(torch.from_numpy(TOKENS)).detach().numpy()).all()
