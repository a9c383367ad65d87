import numpy as np
import pytest
import torch
from structures import IMAGES, TOKENS, HandWritten, Residual, Stock, at_hand, built
from torch import Tensor, nn
from torch.nn import functional

from pared.errors import GateError
from pared.evaluators.export import export
from pared.hardware_profiles import graph
from pared.spaces.passes import Scope, low_rank
from pared.spaces.passes._modules import moments
from pared.spaces.passes.low_rank import Factored, LowRank, LowRankPass, factorable, rank_of

TWO, IMAGE = (TOKENS[:2],), (IMAGES[:2],)


class Words(nn.Module):
    """An embedding whose weight the head shares, a recurrent layer, and a layer read but not called."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(64, 48), nn.LSTM(48, 48, batch_first=True)
        self.free, self.read, self.head = nn.Linear(48, 48), nn.Linear(48, 48), nn.Linear(48, 64, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.free(self.lstm(self.embed(x))[0])
        return self.head(functional.linear(x, self.read.weight).mean(1))


class Convolutions(nn.Module):
    """1x1 convolutions with every option; one with groups, one of 3x3 and one transposed are left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.groups = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 1, groups=2)
        self.strided, self.padded = nn.Conv2d(64, 64, 1, stride=2), nn.Conv2d(64, 96, 1, padding=(2, 1), bias=False)
        self.turned, self.wrapped = nn.ConvTranspose2d(96, 64, 1), nn.Conv2d(64, 64, 1, padding=1, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        x = self.padded(torch.relu(self.strided(torch.relu(self.groups(self.plain(x))))))
        return self.wrapped(torch.relu(self.turned(torch.relu(x)))).mean((2, 3))


def words(count: int) -> np.ndarray:
    return torch.randint(64, (count, 12), generator=torch.Generator().manual_seed(0)).numpy()


def multiply_adds(model: nn.Module, inputs: tuple[np.ndarray, ...]) -> int:
    return sum(kernel.macs for kernel in graph.read(export(model, inputs).SerializeToString()))


def test_shared_recurrent_embedding_and_uncalled_layers_are_left_alone() -> None:
    assert factorable(built(Words), (words(2),)) == ("free",)


def test_torchs_attention_is_left_alone_and_its_feed_forward_layers_are_not() -> None:
    assert factorable(built(Stock), TWO) == tuple(
        f"encoder.layers.{i}.linear{j}" for i in range(3) for j in (1, 2))


def test_only_plain_1x1_convolutions_are_factored_with_their_stride_and_padding() -> None:
    model = built(Convolutions)
    assert factorable(model, IMAGE) == ("strided", "padded")
    factored = LowRankPass().apply(LowRank(0.8, 1), model, at_hand(model, IMAGES))
    assert factored.strided.into.stride == (2, 2) and factored.padded.into.padding == (2, 1)
    x = torch.from_numpy(IMAGES)
    assert factored(x).shape == model(x).shape


def test_kept_layers_are_left_alone() -> None:
    model = built(HandWritten)
    paths = factorable(model, TWO, ("layers.1", "layers.2.up"))
    assert "layers.0.up" in paths and "layers.2.down" in paths
    assert not any(path.startswith("layers.1.") or path == "layers.2.up" for path in paths)


def test_a_model_with_few_such_weights_refuses_with_a_reason() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 5), nn.Conv2d(64, 32, 1)).eval()
    assert factorable(model, IMAGE) == ()
    assert "5%" in LowRankPass().refused(Scope((), {}, ()))


def test_ranks_are_multiples_of_the_width_step_below_break_even() -> None:
    layer = nn.Linear(128, 384)  # breaks even at 96
    ranks = [rank_of(layer, LowRank(share / 10, 16)) for share in range(2, 9)]
    assert ranks == [16, 32, 32, 48, 64, 64, 80]
    assert rank_of(nn.Linear(32, 32), LowRank(0.5, 16)) == 8  # no multiple lies below its 16
    assert rank_of(nn.Linear(32, 32), LowRank(0.8, 8)) == 8


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "data"), [(HandWritten, TOKENS), (Residual, IMAGES)])
def test_multiply_adds_fall_with_the_rank(kind: type[nn.Module], data: np.ndarray) -> None:
    model, inputs = built(kind), (data[:2],)
    costs = [multiply_adds(LowRankPass().apply(LowRank(rank, 1), model, at_hand(model, data)), inputs)
             for rank in (0.8, 0.4)]
    assert multiply_adds(model, inputs) > costs[0] > costs[1]


def test_the_error_on_the_data_is_smaller_than_that_of_plain_singular_values() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64)).eval()
    uneven = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32) * np.logspace(0, -2, 64, dtype=np.float32)
    at = at_hand(model, uneven)
    factored = LowRankPass().apply(LowRank(0.5, 16), model, at)
    left, values, right = torch.linalg.svd(model[0].weight.detach())
    plain = left[:, :16] * values[:16] @ right[:16]
    x = torch.from_numpy(uneven)
    with torch.no_grad():
        errors = [(functional.linear(x, weight, model[0].bias) - model(x)).norm()
                  for weight in (factored[0].weight, plain)]
    assert errors[0] < 0.7 * errors[1]


def test_a_weight_of_low_rank_is_kept_exactly() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(64, 8) @ torch.randn(8, 64))
    data = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)
    factored = LowRankPass().apply(LowRank(0.5, 16), model, at_hand(model, data))
    x = torch.from_numpy(data)
    torch.testing.assert_close(factored(x), model(x), atol=1e-3, rtol=1e-3)


def test_fewer_examples_than_inputs_are_enough() -> None:
    model = built(HandWritten)
    LowRankPass().apply(LowRank(0.5, 8), model, at_hand(model, TOKENS[:2]))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("options", [{}, {"masked": True}], ids=str)
def test_torchs_encoder_runs_with_its_fused_kernel_and_trains(options: dict[str, bool]) -> None:
    model = built(Stock, **options)
    factored = LowRankPass().apply(LowRank(0.5, 8), model, at_hand(model, TOKENS))
    x = torch.from_numpy(TOKENS)
    with torch.no_grad():
        step_by_step = low_rank.outputs(factored, (TOKENS,))[0]
        torch.testing.assert_close(factored(x), step_by_step, atol=1e-4, rtol=1e-3)
    factored.train()(x).sum().backward()
    assert factored.encoder.layers[0].linear1.into.weight.grad.abs().sum() > 0


def test_the_second_moment_is_that_of_the_inputs() -> None:
    model = built(HandWritten)
    seen = moments(model, at_hand(model, TOKENS).subject, ["layers.0.attention.qkv"])["layers.0.attention.qkv"]
    x = model.layers[0].norm1(torch.from_numpy(TOKENS)).detach().flatten(0, 1).double()
    torch.testing.assert_close(seen, x.T @ x / len(x), atol=1e-5, rtol=1e-5)


HONEST = low_rank.factor_


def other_scale(model: nn.Module, path: str, *more: object) -> None:
    HONEST(model, path, *more)
    model.get_submodule(path).into.weight.data *= 1.1


def other_rank(model: nn.Module, path: str, rank: int, moment: Tensor) -> None:
    HONEST(model, path, rank - 1, moment)


def worst_directions(model: nn.Module, path: str, rank: int, moment: Tensor) -> None:
    HONEST(model, path, rank, torch.linalg.inv(moment + 1e-3 * torch.eye(len(moment))))


def lost_bias(model: nn.Module, path: str, *more: object) -> None:
    HONEST(model, path, *more)
    model.get_submodule(path).out.bias.data.zero_()


def wired_twice(model: nn.Module, path: str, *more: object) -> None:
    HONEST(model, path, *more)
    pair = model.get_submodule(path)
    pair.out = nn.Sequential(pair.out, nn.ReLU())
    pair.out.weight, pair.out.bias = pair.out[0].weight, pair.out[0].bias


@pytest.mark.parametrize(("sabotage", "reason"), [
    (other_scale, "the best ones lose"), (worst_directions, "the best ones lose"), (other_rank, "of rank"),
    (lambda *_: None, "two layers"), (lost_bias, "wired wrongly"), (wired_twice, "wired wrongly")])
def test_a_sabotaged_factorisation_is_caught(
    sabotage: object, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uneven = TOKENS * np.logspace(0, -2, 32, dtype=np.float32)
    model = built(nn.Sequential, nn.Linear(32, 96), nn.GELU(), nn.Linear(96, 32), nn.Flatten(), nn.Linear(384, 10))
    monkeypatch.setattr(low_rank, "factor_", sabotage)
    with pytest.raises(GateError, match=reason):
        LowRankPass().apply(LowRank(0.5, 8), model, at_hand(model, uneven))


def test_no_layer_grows_when_the_width_step_is_larger_than_it() -> None:
    model = built(HandWritten)
    factored = LowRankPass().apply(LowRank(0.8, 64), model, at_hand(model, TOKENS))
    pairs = [module for module in factored.modules() if isinstance(module, Factored)]
    assert pairs and all(
        sum(p.weight.numel() for p in (pair.into, pair.out)) < pair.weight.numel() for pair in pairs)
