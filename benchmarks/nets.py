"""Nets to time: many families in plain torch, random weights, and variants of one model.

Widths and depths are parameters, so that the published sizes can be built too; what is timed is small.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch
from blocks import (
    AcrossTokens,
    ChannelsLast,
    ConvNeXtBlock,
    DenseLayer,
    MeanPixel,
    MeanToken,
    Parallel,
    PatchMerging,
    Residual,
    ShiftedWindow,
    ShuffleUnit,
    SqueezeExcite,
    Tokens,
    basic,
    bottleneck_block,
    conv,
    encoder,
    head,
    inverted,
)
from torch import Tensor, nn
from torch.nn import functional as F


def resnet(depths: tuple[int, ...], width: int = 64, bottleneck: bool = False) -> nn.Module:
    """(2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) with bottlenecks ResNet-50: 4.089 GMAC at 224 px."""
    layers: list[nn.Module] = [conv(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
    c = width
    for stage, depth in enumerate(depths):
        out = width * 2**stage * (4 if bottleneck else 1)
        for i in range(depth):
            layers.append((bottleneck_block if bottleneck else basic)(c, out, 2 if stage and not i else 1))
            c = out
    return nn.Sequential(*layers, *head(c))


def resnet8(widths: tuple[int, ...] = (16, 32, 64), depth: int = 1, channels: int = 3) -> nn.Module:
    """The small residual net of MLPerf Tiny."""
    layers, c = [conv(channels, widths[0])], widths[0]
    for stage, width in enumerate(widths):
        for i in range(depth):
            layers.append(basic(c, width, 2 if stage and not i else 1))
            c = width
    return nn.Sequential(*layers, *head(c, 10))


def vgg(width: int = 32) -> nn.Module:
    layers: list[nn.Module] = []
    c = 3
    for stage, depth in enumerate((1, 1, 2, 2)):
        for _ in range(depth):
            layers.append(conv(c, width * 2**stage))
            c = width * 2**stage
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *head(c))


def mobilenet_v1(scale: float = 1.0) -> nn.Module:
    w = [round(scale * c) for c in (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)]
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    layers = [conv(3, w[0], 3, 2)]
    for c_in, c_out, stride in zip(w, w[1:], strides, strict=False):
        layers += [conv(c_in, c_in, 3, stride, c_in), conv(c_in, c_out, 1)]
    return nn.Sequential(*layers, *head(w[-1]))


def _eights(value: float) -> int:
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * value else rounded + 8


V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(scale: float = 1.0, rows: tuple[tuple[int, ...], ...] = V2, kernel: int = 3) -> nn.Module:
    """0.301 GMAC at 224 px. `rows`: expansion, width, depth, stride."""
    c, last = _eights(32 * scale), _eights(1280 * max(1.0, scale))
    layers: list[nn.Module] = [conv(3, c, 3, 2, act=nn.ReLU6)]
    for t, width, depth, stride in rows:
        out = _eights(width * scale)
        for i in range(depth):
            layers.append(inverted(c, c * t, out, kernel, stride if not i else 1, nn.ReLU6))
            c = out
    return nn.Sequential(*layers, conv(c, last, 1, act=nn.ReLU6), *head(last))


def mnasnet(scale: float = 1.0) -> nn.Module:
    rows = ((1, 16, 1, 1, 3), (3, 24, 3, 2, 3), (3, 40, 3, 2, 5), (6, 80, 3, 2, 5), (6, 96, 2, 1, 3),
            (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))
    c = _eights(32 * scale)
    layers: list[nn.Module] = [conv(3, c, 3, 2)]
    for t, width, depth, stride, k in rows:
        out = _eights(width * scale)
        for i in range(depth):
            layers.append(inverted(c, c * t, out, k, stride if not i else 1, nn.ReLU))
            c = out
    return nn.Sequential(*layers, conv(c, 1280, 1), *head(1280))


def mobilenet_v3_small() -> nn.Module:
    rows = ((16, 16, 3, 2, True, nn.ReLU), (72, 24, 3, 2, False, nn.ReLU), (88, 24, 3, 1, False, nn.ReLU),
            (96, 40, 5, 2, True, nn.Hardswish), (240, 40, 5, 1, True, nn.Hardswish),
            (240, 40, 5, 1, True, nn.Hardswish), (120, 48, 5, 1, True, nn.Hardswish),
            (144, 48, 5, 1, True, nn.Hardswish), (288, 96, 5, 2, True, nn.Hardswish),
            (576, 96, 5, 1, True, nn.Hardswish), (576, 96, 5, 1, True, nn.Hardswish))
    layers: list[nn.Module] = [conv(3, 16, 3, 2, act=nn.Hardswish)]
    c = 16
    for inner, out, k, stride, squeeze, act in rows:
        gate = SqueezeExcite(inner, _eights(inner / 4), nn.ReLU, nn.Hardsigmoid) if squeeze else None
        layers.append(inverted(c, inner, out, k, stride, act, gate))
        c = out
    return nn.Sequential(*layers, conv(c, 576, 1, act=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(576, 1024), nn.Hardswish(), nn.Linear(1024, 1000))


def efficientnet_b0(scale: float = 1.0) -> nn.Module:
    """0.386 GMAC at 224 px."""
    rows = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))
    c = _eights(32 * scale)
    layers: list[nn.Module] = [conv(3, c, 3, 2, act=nn.SiLU)]
    for t, width, depth, stride, k in rows:
        out = _eights(width * scale)
        for i in range(depth):
            gate = SqueezeExcite(c * t, max(1, c // 4), nn.SiLU, nn.Sigmoid)
            layers.append(inverted(c, c * t, out, k, stride if not i else 1, nn.SiLU, gate))
            c = out
    return nn.Sequential(*layers, conv(c, 1280, 1, act=nn.SiLU), *head(1280))


def squeezenet() -> nn.Module:
    def fire(c_in: int, squeeze: int, expand: int) -> nn.Module:
        sides = Parallel(*(nn.Sequential(nn.Conv2d(squeeze, expand, k, padding=k // 2), nn.ReLU()) for k in (1, 3)))
        return nn.Sequential(nn.Conv2d(c_in, squeeze, 1), nn.ReLU(), sides)

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(), fire(64, 16, 64), fire(128, 16, 64), pool(),
                         fire(128, 32, 128), fire(256, 32, 128), pool(), fire(256, 48, 192), fire(384, 48, 192),
                         fire(384, 64, 256), fire(512, 64, 256), nn.Conv2d(512, 1000, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten())


def densenet(depths: tuple[int, ...] = (4, 6, 8, 6), growth: int = 24) -> nn.Module:
    c = 2 * growth
    layers: list[nn.Module] = [conv(3, c, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for stage, depth in enumerate(depths):
        for _ in range(depth):
            layers.append(DenseLayer(c, growth))
            c += growth
        if stage < len(depths) - 1:
            layers += [nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c // 2, 1, bias=False), nn.AvgPool2d(2)]
            c //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(c), nn.ReLU(), *head(c))


def shufflenet_v2(widths: tuple[int, ...] = (116, 232, 464)) -> nn.Module:
    layers: list[nn.Module] = [conv(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    c = 24
    for width, depth in zip(widths, (4, 8, 4), strict=True):
        for i in range(depth):
            layers.append(ShuffleUnit(c, width, 1 if i else 2))
            c = width
    return nn.Sequential(*layers, conv(c, 1024, 1), *head(1024))


def googlenet() -> nn.Module:
    def inception(c_in: int, a: int, b: tuple[int, int], c: tuple[int, int], d: int) -> nn.Module:
        return Parallel(conv(c_in, a, 1), nn.Sequential(conv(c_in, b[0], 1), conv(*b)),
                        nn.Sequential(conv(c_in, c[0], 1), conv(*c)),
                        nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(c_in, d, 1)))

    return nn.Sequential(conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1), conv(64, 64, 1), conv(64, 192),
                         nn.MaxPool2d(3, 2, 1), inception(192, 64, (96, 128), (16, 32), 32),
                         inception(256, 128, (128, 192), (32, 96), 64), nn.MaxPool2d(3, 2, 1),
                         inception(480, 192, (96, 208), (16, 48), 64), inception(512, 160, (112, 224), (24, 64), 64),
                         inception(512, 256, (160, 320), (32, 128), 128), nn.MaxPool2d(3, 2, 1),
                         inception(832, 384, (192, 384), (48, 128), 128), *head(1024))


def inception_1x7(width: int = 64) -> nn.Module:
    """Asymmetric convolutions, as in Inception-v3."""
    def row(c: int, k: tuple[int, int]) -> nn.Module:
        return nn.Sequential(nn.Conv2d(c, c, k, padding=(k[0] // 2, k[1] // 2)), nn.ReLU())

    def block(c: int) -> nn.Module:
        return Parallel(conv(c, c // 2, 1), nn.Sequential(conv(c, c // 2, 1), row(c // 2, (1, 7)), row(c // 2, (7, 1))))

    return nn.Sequential(conv(3, width, 3, 2), conv(width, width), nn.MaxPool2d(2), block(width), block(width),
                         conv(width, 2 * width, 3, 2), block(2 * width), block(2 * width), *head(2 * width))


def vit(width: int = 192, depth: int = 6, heads: int = 3, patch: int = 16) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, patch, patch), Tokens(), *(encoder(width, heads) for _ in range(depth)),
                         nn.LayerNorm(width), MeanToken(), nn.Linear(width, 1000))


def mixer(width: int = 192, depth: int = 6, tokens: int = 64) -> nn.Module:
    blocks = (encoder(width, 1, AcrossTokens(tokens)) for _ in range(depth))
    return nn.Sequential(nn.Conv2d(3, width, 16, 16), Tokens(), *blocks, nn.LayerNorm(width), MeanToken(),
                         nn.Linear(width, 1000))


def swin(width: int = 96, depths: tuple[int, ...] = (4,), window: int = 4) -> nn.Module:
    """Depths (2, 2, 6, 2) and windows of 7 are Swin-T: 4.49 GMAC at 224 px."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 4), ChannelsLast()]
    for stage, depth in enumerate(depths):
        c = width * 2**stage
        layers += [PatchMerging(c // 2)] if stage else []
        layers += [ShiftedWindow(c, c // 32, window, window // 2 * (i % 2)) for i in range(depth)]
    return nn.Sequential(*layers, MeanPixel(), nn.Linear(c, 1000))


def convnext(width: int = 64, depths: tuple[int, ...] = (2, 2, 3)) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 4)]
    c = width
    for stage, depth in enumerate(depths):
        if stage:
            layers.append(nn.Conv2d(c, 2 * c, 2, 2))
            c *= 2
        layers += [ConvNeXtBlock(c) for _ in range(depth)]
    return nn.Sequential(*layers, *head(c))


class UNet(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = [width * 2**i for i in range(4)]
        self.down = nn.ModuleList([nn.Sequential(conv(a, b), conv(b, b)) for a, b in zip([3, *w], w, strict=False)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(w)])
        self.merge = nn.ModuleList([conv(2 * a, a) for a in w[:-1]])
        self.out = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for up, merge, side in list(zip(self.up, self.merge, kept, strict=False))[::-1]:
            x = merge(torch.cat([up(x), side], 1))
        return self.out(x)


def resnext(width: int = 32, groups: int = 8) -> nn.Module:
    layers: list[nn.Module] = [conv(3, width, 3, 2)]
    c = width
    for stage in range(3):
        out = width * 2 ** (stage + 1)
        stride = 2 if stage else 1
        body = nn.Sequential(conv(c, out, 1), conv(out, out, 3, stride, groups), conv(out, out, 1, act=None))
        again = nn.Sequential(conv(out, out, 1), conv(out, out, 3, 1, groups), conv(out, out, 1, act=None))
        layers += [Residual(body, conv(c, out, 1, stride, act=None), nn.ReLU()), Residual(again, None, nn.ReLU())]
        c = out
    return nn.Sequential(*layers, *head(c))


def ds_cnn(width: int = 64) -> nn.Module:
    """Keyword spotting, as in MLPerf Tiny, on a square input."""
    layers = [conv(3, width, 5, 2)]
    for _ in range(4):
        layers += [conv(width, width, 3, 1, width), conv(width, width, 1)]
    return nn.Sequential(*layers, *head(width, 12))


Build = Callable[[], nn.Module]

ZOO: dict[str, tuple[Build, int]] = {  # name -> net, input pixels: 0.1 to 40 ms on one core
    "resnet8": (resnet8, 64),
    "resnet18": (partial(resnet, (2, 2, 2, 2)), 128),
    "resnet34": (partial(resnet, (3, 4, 6, 3), 48), 128),
    "resnet50": (partial(resnet, (3, 4, 6, 3), 64, True), 160),
    "resnext": (resnext, 96),
    "vgg": (partial(vgg, 64), 96),
    "mobilenet_v1": (mobilenet_v1, 160),
    "mobilenet_v2": (mobilenet_v2, 128),
    "mobilenet_v3_small": (mobilenet_v3_small, 128),
    "mnasnet": (mnasnet, 96),
    "efficientnet_b0": (efficientnet_b0, 128),
    "squeezenet": (squeezenet, 112),
    "densenet": (densenet, 160),
    "shufflenet_v2": (shufflenet_v2, 128),
    "googlenet": (googlenet, 160),
    "inception_1x7": (inception_1x7, 64),
    "unet": (UNet, 128),
    "ds_cnn": (ds_cnn, 48),
    "convnext": (convnext, 128),
    "vit": (partial(vit, depth=12), 224),
    "mixer": (mixer, 128),
    "swin": (partial(swin, depths=(6,)), 128),
}


def variants() -> Iterator[tuple[str, str, Build, int]]:
    """Family, name, net, input pixels: what a search makes of one model."""
    for i, widths in enumerate(_RESNET8):
        for depth in (1, 2) if i % 2 else (1,):
            yield "resnet8", f"resnet8 {'-'.join(map(str, widths))} x{depth}", partial(resnet8, widths, depth), 32
    for scale in (0.35, 0.5, 0.75, 1.0, 1.25):
        for cut, rows in _MBV2.items():
            yield "mbv2", f"mbv2 {scale} {cut}", partial(mobilenet_v2, scale, rows), 96


_RESNET8 = ((16, 32, 64), (16, 32, 32), (8, 16, 32), (16, 16, 32), (16, 24, 48), (24, 48, 96), (32, 64, 128),
            (32, 48, 64), (16, 64, 64), (8, 32, 64), (24, 32, 40))
_MBV2 = {
    "full": V2,
    "shallow": tuple((t, w, max(1, d - 1), s) for t, w, d, s in V2),
    "narrow": tuple((max(1, t // 2), w, d, s) for t, w, d, s in V2),
}
