"""Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762) that has as many heads as its weights.

`torch.nn.MultiheadAttention` keeps that number as a constant and ties the width of all heads to the
width of the model, so that no head can leave it; this module takes its place.
"""

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..keep import kept
from ..subject import Array
from ._modules import check_same, outputs, shared

TOLERANCE = 1e-4  # of the largest output


class Attention(nn.Module):
    """Computes what the `nn.MultiheadAttention` it is made of computes, a mask of its own per head excepted.

    Query, key and value are (batch, tokens, width), or (tokens, batch, width) without `batch_first`.
    """

    # torch's encoder layer uses its fused kernel, which knows no missing heads, only beside an input bias.
    in_proj_bias: ClassVar[None] = None
    _qkv_same_embed_dim: ClassVar[bool] = False

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.head_dim, self.dropout = int(attention.head_dim), attention.dropout
        self.embed_dim, self.batch_first = attention.embed_dim, attention.batch_first
        biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_linear, _in_weights(attention), biases)
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.train(attention.training)

    @property
    def num_heads(self) -> int:
        return self.q_proj.out_features // self.head_dim

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Masks as in `nn.MultiheadAttention`: (queries, keys) and (batch, keys), True or -inf is out."""
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (self._split(x) for x in (self.q_proj(query), self.k_proj(key), self.v_proj(value)))
        mask = _merged(attn_mask, key_padding_mask, q.dtype)
        weights = None
        if need_weights:
            scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5
            weights = functional.softmax(scores if mask is None else scores + mask, -1)
            weights = functional.dropout(weights, self.dropout, self.training)
            mixed = weights @ v
        else:
            dropout = self.dropout if self.training else 0.0
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        output: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _split(self, x: Tensor) -> Tensor:
        """(batch, tokens, heads x head_dim) -> (batch, heads, tokens, head_dim)"""
        return x.reshape(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


def opened(model: nn.Module, inputs: tuple[Array, ...], keep: tuple[str, ...] = ()) -> nn.Module:
    """A copy that computes the same, with `Attention` for each `nn.MultiheadAttention` that allows it."""
    model = copy.deepcopy(model)
    tied, want = shared(model), outputs(model, inputs)
    for path, module in list(model.named_modules()):
        own = [f"{path}.{name}".rstrip(".") for name, _ in module.named_modules()]
        if path and _can_open(module) and not any(name in tied or kept(name, keep) for name in own):
            _try_open_(model, path, inputs, want)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and _holds_one(module):
            module.use_nested_tensor = False  # only the fused kernel reads nested tensors
    return model


def _try_open_(model: nn.Module, path: str, inputs: tuple[Array, ...], want: list[Tensor]) -> None:
    """Takes the module back where the model then gives anything else, or nothing at all."""
    before = model.get_submodule(path)
    assert isinstance(before, nn.MultiheadAttention)
    model.set_submodule(path, Attention(before))
    try:
        check_same(want, outputs(model, inputs), TOLERANCE, "attention was rebuilt wrongly")
    except Exception:
        model.set_submodule(path, before)


def _can_open(module: nn.Module) -> bool:
    return type(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn


def _holds_one(encoder: nn.Module) -> bool:
    return any(isinstance(module, Attention) for module in encoder.modules())


def _in_weights(attention: nn.MultiheadAttention) -> tuple[Tensor, ...]:
    if attention._qkv_same_embed_dim:
        return attention.in_proj_weight.chunk(3)
    return attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _merged(attn_mask: Tensor | None, padding: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """One mask to add to the scores, (queries, keys) or (batch, 1, queries or 1, keys)."""
    if attn_mask is not None and attn_mask.ndim != 2:
        raise ValueError(f"a mask must be (queries, keys), for all heads; got {tuple(attn_mask.shape)}")
    every = padding if padding is None else padding[:, None, None]
    masks = [_added(mask, dtype) for mask in (attn_mask, every) if mask is not None]
    return sum(masks[1:], masks[0]) if masks else None


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
