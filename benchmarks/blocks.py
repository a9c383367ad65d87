"""Parts of the nets of `nets.py`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.after = body, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.body(x) + self.shortcut(x))


class Parallel(nn.Module):
    """Branches of one input, side by side along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, inner: int, act: Activation, gate: Activation) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, inner, 1), act(),
                                  nn.Conv2d(inner, width, 1), gate())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def conv(c_in: int, c_out: int, k: int = 3, stride: int = 1, groups: int = 1,
         act: Activation | None = nn.ReLU) -> nn.Sequential:
    """Convolution, batch norm and activation."""
    layers: list[nn.Module] = [nn.Conv2d(c_in, c_out, k, stride, k // 2, groups=groups, bias=False),
                               nn.BatchNorm2d(c_out)]
    return nn.Sequential(*layers, *([act()] if act else []))


def head(width: int, classes: int = 1000) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def basic(c_in: int, c_out: int, stride: int) -> nn.Module:
    shortcut = None if stride == 1 and c_in == c_out else conv(c_in, c_out, 1, stride, act=None)
    return Residual(nn.Sequential(conv(c_in, c_out, 3, stride), conv(c_out, c_out, act=None)), shortcut, nn.ReLU())


def bottleneck_block(c_in: int, c_out: int, stride: int) -> nn.Module:
    inner = c_out // 4
    shortcut = None if stride == 1 and c_in == c_out else conv(c_in, c_out, 1, stride, act=None)
    body = nn.Sequential(conv(c_in, inner, 1), conv(inner, inner, 3, stride), conv(inner, c_out, 1, act=None))
    return Residual(body, shortcut, nn.ReLU())


def inverted(c_in: int, inner: int, c_out: int, k: int, stride: int, act: Activation,
              squeeze: nn.Module | None = None) -> nn.Module:
    layers: list[nn.Module] = [] if inner == c_in else [conv(c_in, inner, 1, act=act)]
    layers += [conv(inner, inner, k, stride, inner, act), *([squeeze] if squeeze else []),
               conv(inner, c_out, 1, act=None)]
    body = nn.Sequential(*layers)
    return Residual(body) if stride == 1 and c_in == c_out else body


class DenseLayer(nn.Module):
    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(c_in), nn.ReLU(), conv(c_in, 4 * growth, 1),
                                  nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


class ShuffleUnit(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.split, half = stride == 1, c_out // 2
        inner = half if self.split else c_in
        self.main = nn.Sequential(conv(inner, half, 1), conv(half, half, 3, stride, half, None), conv(half, half, 1))
        self.side = nn.Identity() if self.split else nn.Sequential(
            conv(c_in, c_in, 3, stride, c_in, None), conv(c_in, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.split else (x, x)
        y = torch.cat([self.side(left), self.main(right)], 1)
        return y.unflatten(1, (2, y.shape[1] // 2)).transpose(1, 2).flatten(1, 2)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, tokens, width)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = torch.softmax(q @ k.transpose(2, 3) * (c // self.heads) ** -0.5, -1)
        return self.out((scores @ v).transpose(1, 2).reshape(b, n, c))


def encoder(width: int, heads: int, mixing: nn.Module | None = None) -> nn.Module:
    mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
    mix = nn.Sequential(nn.LayerNorm(width), mixing or Attention(width, heads))
    return nn.Sequential(Residual(mix), Residual(mlp))


class Tokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:  # (batch, width, h, w) -> (batch, h w, width)
        return x.flatten(2).transpose(1, 2)


class MeanToken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class AcrossTokens(nn.Module):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x.transpose(1, 2)).transpose(1, 2)


class ShiftedWindow(nn.Module):
    """Attention inside windows of a rolled image, as Swin does: reshapes all over."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.mlp = Residual(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(),
                                          nn.Linear(4 * width, width)))

    def forward(self, x: Tensor) -> Tensor:  # (batch, h, w, width)
        b, h, w, c = x.shape
        s = self.window
        y = torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2))
        y = y.reshape(b, h // s, s, w // s, s, c).transpose(2, 3).reshape(-1, s * s, c)
        y = self.attention(y).reshape(b, h // s, w // s, s, s, c).transpose(2, 3).reshape(b, h, w, c)
        return self.mlp(x + torch.roll(y, (self.shift, self.shift), (1, 2)))


class PatchMerging(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False))

    def forward(self, x: Tensor) -> Tensor:  # (batch, h, w, width) -> (batch, h / 2, w / 2, 2 width)
        b, h, w, c = x.shape
        return self.reduce(x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(b, h // 2, w // 2, 4 * c))


class ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class MeanPixel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2))


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.dw(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
