"""Nets for the passes that change the structure of a model, untrained, and data for them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import pared
from pared.spaces.materials import Materials

WIDTH, DIM = 32, 8  # of the tokens, of one head
TOKENS = np.random.default_rng(0).normal(size=(64, 12, WIDTH)).astype(np.float32)
IMAGES = np.random.default_rng(0).normal(size=(32, 3, 8, 8)).astype(np.float32)


class SelfAttention(nn.Module):
    """Written by hand, one fused layer; the number of heads follows from its width, `constant` or not."""

    def __init__(self, constant: bool = False, interleaved: bool = False) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.heads, self.interleaved = WIDTH // DIM if constant else -1, interleaved

    def forward(self, x: Tensor) -> Tensor:  # (batch, tokens, width)
        b, t, _ = x.shape
        if self.interleaved:
            q, k, v = self.qkv(x).reshape(b, t, self.heads, 3, DIM).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, DIM).permute(2, 0, 3, 1, 4)
        return self.out((torch.softmax(q @ k.mT * DIM**-0.5, -1) @ v).transpose(1, 2).flatten(2))


class SeparateAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=i != 1) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:  # (batch, tokens, width)
        q, k, v = (layer(x).unflatten(2, (-1, DIM)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(WIDTH), attention, nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class HandWritten(nn.Module):
    def __init__(self, *attentions: nn.Module) -> None:
        super().__init__()
        parts = attentions or (SelfAttention(), SeparateAttention(), SelfAttention(interleaved=True))
        self.layers = nn.Sequential(*(Layer(attention) for attention in parts))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:  # (batch, tokens, width) -> (batch, 10)
        return self.head(self.norm(self.layers(x)).mean(1))


class Stock(nn.Module):
    """torch's own encoder, with every mask it takes if `masked`."""

    def __init__(self, norm_first: bool = False, masked: bool = False, **options: object) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, batch_first=True, norm_first=norm_first, **options)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=masked)
        self.head, self.masked = nn.Linear(WIDTH, 10), masked

    def forward(self, x: Tensor) -> Tensor:  # (batch, tokens, width) -> (batch, 10)
        if not self.masked:
            return self.head(self.encoder(x).mean(1))
        padding = torch.arange(x.shape[1]) >= x.shape[1] - 3
        y = self.encoder(x, src_key_padding_mask=padding.expand(x.shape[:2]))
        return self.head(y.masked_fill(padding[:, None], 0.0).mean(1))


class Block(nn.Module):
    """A residual block of convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
                                  nn.Conv2d(2 * width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Residual(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU())
        self.blocks = nn.Sequential(Block(width), Block(width), Block(width))
        self.down, self.head = nn.Conv2d(width, 2 * width, 1, stride=2, padding=1), nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 3, 8, 8) -> (batch, 10)
        return self.head(torch.relu(self.down(self.blocks(self.stem(x)))).mean((2, 3)))


def settled(model: nn.Module) -> nn.Module:
    """In evaluation mode, with norms, shifts and statistics that are not those a fresh model has."""
    torch.manual_seed(1)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 1:
            tensor.data += 0.3 * torch.rand_like(tensor.data)
    return model.eval()


def built(make: type[nn.Module], *args: object, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return settled(make(*args, **options))


def at_hand(model: nn.Module, data: np.ndarray, **more: Any) -> Materials:
    """Materials whose subject is this model, judged by what it says itself."""
    with torch.no_grad():
        split = data, model(torch.from_numpy(data)).argmax(1).numpy()
    return Materials(pared.Classification(model, split, split, split), **more)
