"""Published nets as kernel lists, from their shapes; no framework is asked.

BN and ReLU are folded into the convolution before them; hard-swish, SiLU and GELU are kernels. Images are 224 px, as Qualcomm
AI Hub times them (the latencies of EfficientNet-B4, V2-S and Inception fit 224 px, not the sizes they were published with).
"""

from math import ceil
from typing import Any

from pared.hardware_profiles.kernel import Kernel

Row = tuple[str, int, int, int, int, int, int, int, int]


class Net:
    """Collects rows, an operator a method; the map is `h` pixels wide with `c` channels."""

    def __init__(self, res: int, c: int = 3) -> None:
        self.h, self.c, self.ks = res, c, list[Row]()

    def conv(self, co: int, k: int = 1, st: int = 1, g: int = 1, pad: int | None = None, kw: int | None = None) -> None:
        """k x kw (kw: 1 x 7 and the like count as one side 1)."""
        out = -(-self.h // st) if pad is None else (self.h + 2 * pad - k) // st + 1
        op = "dw" if g == self.c and g > 1 else "gconv" if g > 1 else "pw" if k == 1 and not kw else "conv"
        weights = self.c // g * co * k * (kw or k)
        self.ks.append((op, weights * out**2, weights, self.c * self.h**2, co * out**2, self.c, co, max(k, kw or k), g))
        self.h, self.c = out, co

    def beside(self, c: int, h: int, co: int, st: int) -> None:
        """A 1x1 convolution of an earlier map; the current one stays."""
        now = self.c, self.h
        self.c, self.h = c, h
        self.conv(co, 1, st)
        self.c, self.h = now

    def elt(self, nin: int = 1, n: int = 0) -> None:
        n = n or self.c * self.h**2
        self.ks.append(("elt", 0, 0, nin * n, n, 1, 1, 1, 1))

    def data(self, n: int = 0) -> None:
        n = n or self.c * self.h**2
        self.ks.append(("data", 0, 0, n, n, 1, 1, 1, 1))

    def pool(self, k: int = 3, st: int = 2, pad: int = 1) -> None:
        out = (self.h + 2 * pad - k) // st + 1
        self.ks.append(("pool", 0, 0, self.c * self.h**2, self.c * out**2, self.c, self.c, k, 1))
        self.h = out

    def fc(self, co: int, ci: int = 0) -> None:
        ci = ci or self.c
        self.ks.append(("fc", ci * co, ci * co, ci, co, ci, co, 1, 1))

    def mm(self, m: int, k: int, n: int, weights: bool = True, times: int = 1) -> None:
        read = m * k + (0 if weights else k * n)
        self.ks.append(("mm", m * k * n * times, k * n if weights else 0, read * times, m * n * times, k, n, 1, 1))

    def squeeze(self, to: int) -> None:
        """Squeeze and excitation."""
        h = self.h
        self.pool(h, h, 0)
        self.fc(to)
        self.fc(self.c, to)
        self.h = h
        self.elt()

    def head(self, classes: int = 1000) -> None:
        self.pool(self.h, self.h, 0)
        self.fc(classes)


def resnet(blocks: Any, bottle: bool = True, width: int = 64, groups: int = 1) -> list[Row]:
    n = Net(224)
    n.conv(64, 7, 2, pad=3)
    n.pool()
    for i, b in enumerate(blocks):
        co = 64 * 2**i * (4 if bottle else 1)
        m = int(64 * 2**i * width / 64) * groups if groups > 1 else 64 * 2**i * width // 64
        for j in range(b):
            st = 2 if i and not j else 1
            ci, h = n.c, n.h
            if bottle:
                n.conv(m)
                n.conv(m, 3, st, groups)
                n.conv(co)
            else:
                n.conv(co, 3, st)
                n.conv(co, 3)
            if ci != co or st > 1:
                n.beside(ci, h, co, st)
            n.elt(2)
    n.head()
    return n.ks


def inverted(n: Net, k: int, e: int, co: int, st: int, se: int = 0, act: bool = False) -> None:
    ci = n.c
    if e != ci:
        n.conv(e)
        if act:
            n.elt()
    n.conv(e, k, st, e)
    if act:
        n.elt()
    if se:
        n.squeeze(se)
    n.conv(co)
    if st == 1 and ci == co:
        n.elt(2)


def mbv2(cfg: Any, stem: int = 32) -> list[Row]:
    n = Net(224)
    n.conv(stem, 3, 2)
    for t, c, r, s, k in cfg:
        for i in range(r):
            inverted(n, k, n.c * t, c, s if i == 0 else 1)
    n.conv(1280)
    n.head()
    return n.ks


MBV2 = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3), (6, 160, 3, 2, 3), (6, 320, 1, 1, 3)]
MNAS05 = [(1, 8, 1, 1, 3), (3, 16, 3, 2, 3), (3, 24, 3, 2, 5), (6, 40, 3, 2, 5), (6, 48, 2, 1, 3), (6, 96, 4, 2, 5), (6, 160, 1, 1, 3)]


def mbv3(cfg: Any, last: int) -> list[Row]:
    n = Net(224)
    n.conv(16, 3, 2)
    n.elt()
    for k, e, co, se, hs, st in cfg:
        inverted(n, k, e, co, st, -(-e // 4 // 8) * 8 if se else 0, hs)
    n.conv(cfg[-1][2] * 6)
    n.elt()
    n.pool(n.h, n.h, 0)
    n.fc(last)
    n.elt(n=last)
    n.fc(1000, last)
    return n.ks


V3L = [
    (3, 16, 16, 0, 0, 1),
    (3, 64, 24, 0, 0, 2),
    (3, 72, 24, 0, 0, 1),
    (5, 72, 40, 1, 0, 2),
    (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1),
    (3, 240, 80, 0, 1, 2),
    (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1),
    (3, 672, 112, 1, 1, 1),
    (5, 672, 160, 1, 1, 2),
    (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
]
V3S = [
    (3, 16, 16, 1, 0, 2),
    (3, 72, 24, 0, 0, 2),
    (3, 88, 24, 0, 0, 1),
    (5, 96, 40, 1, 1, 2),
    (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1),
    (5, 120, 48, 1, 1, 1),
    (5, 144, 48, 1, 1, 1),
    (5, 288, 96, 1, 1, 2),
    (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
]


def effnet(wm: float, dm: float, res: int) -> list[Row]:
    def r8(c: int) -> int:
        r = max(8, int(c * wm + 4) // 8 * 8)
        return r if r >= 0.9 * c * wm else r + 8

    n = Net(res)
    n.conv(r8(32), 3, 2)
    n.elt()
    for t, c, r, s, k in [
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]:
        for i in range(ceil(r * dm)):
            inverted(n, k, n.c * t, r8(c), s if i == 0 else 1, n.c // 4, True)
    n.conv(r8(1280))
    n.elt()
    n.head()
    return n.ks


def effv2s() -> list[Row]:
    n = Net(224)
    n.conv(24, 3, 2)
    n.elt()
    for t, c, r, s, f in [(1, 24, 2, 1, 1), (4, 48, 4, 2, 1), (4, 64, 4, 2, 1), (4, 128, 6, 2, 0), (6, 160, 9, 1, 0), (6, 256, 15, 2, 0)]:
        for i in range(r):
            st = s if i == 0 else 1
            ci = n.c
            if not f:
                inverted(n, 3, ci * t, c, st, ci // 4, True)
                continue
            if t == 1:
                n.conv(c, 3, st)
                n.elt()
            else:
                n.conv(ci * t, 3, st)
                n.elt()
                n.conv(c)
            if st == 1 and ci == c:
                n.elt(2)
    n.conv(1280)
    n.elt()
    n.head()
    return n.ks


def inc(n: Net, *branches: Any) -> None:
    h, c, tot = n.h, n.c, 0
    for br in branches:
        n.h, n.c = h, c
        for b in br:
            if b == "p":
                n.pool(3, 1, 1)
            elif b == "p2":
                n.pool(3, 2, 0)
            else:
                n.conv(*b[:3], **(b[3] if len(b) > 3 else {}))
        tot += n.c
    n.c = tot
    n.data()


def googlenet() -> list[Row]:
    n = Net(224)
    n.conv(64, 7, 2)
    n.pool(3, 2, 1)
    n.conv(64)
    n.conv(192, 3)
    n.pool(3, 2, 1)
    C = [
        (64, 96, 128, 16, 32, 32),
        (128, 128, 192, 32, 96, 64),
        0,
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
        0,
        (256, 160, 320, 32, 128, 128),
        (384, 192, 384, 48, 128, 128),
    ]
    for c in C:
        if not c:
            n.pool(3, 2, 1)
            continue
        inc(n, [(c[0], 1, 1)], [(c[1], 1, 1), (c[2], 3, 1)], [(c[3], 1, 1), (c[4], 3, 1)], ["p", (c[5], 1, 1)])
    n.head()
    return n.ks


def inception3() -> list[Row]:
    v = dict(pad=0)
    n = Net(224)
    n.conv(32, 3, 2, pad=0)
    n.conv(32, 3, 1, pad=0)
    n.conv(64, 3)
    n.pool(3, 2, 0)
    n.conv(80)
    n.conv(192, 3, 1, pad=0)
    n.pool(3, 2, 0)
    for p in (32, 64, 64):
        inc(n, [(64, 1, 1)], [(48, 1, 1), (64, 5, 1)], [(64, 1, 1), (96, 3, 1), (96, 3, 1)], ["p", (p, 1, 1)])
    inc(n, [(384, 3, 2, v)], [(64, 1, 1), (96, 3, 1), (96, 3, 2, v)], ["p2"])
    w = dict(kw=7)
    for c in (128, 160, 160, 192):
        inc(
            n,
            [(192, 1, 1)],
            [(c, 1, 1), (c, 1, 1, w), (192, 1, 1, w)],
            [(c, 1, 1), (c, 1, 1, w), (c, 1, 1, w), (c, 1, 1, w), (192, 1, 1, w)],
            ["p", (192, 1, 1)],
        )
    inc(n, [(192, 1, 1), (320, 3, 2, v)], [(192, 1, 1), (192, 1, 1, w), (192, 1, 1, w), (192, 3, 2, v)], ["p2"])
    w = dict(kw=3)
    for _ in range(2):
        inc(n, [(320, 1, 1)], [(384, 1, 1), (768, 1, 1, w)], [(448, 1, 1), (384, 3, 1), (768, 1, 1, w)], ["p", (192, 1, 1)])
    n.head()
    return n.ks


def densenet() -> list[Row]:
    n = Net(224)
    n.conv(64, 7, 2)
    n.pool(3, 2, 1)
    for i, b in enumerate((6, 12, 24, 16)):
        for _ in range(b):
            c = n.c
            n.elt()
            n.conv(128)
            n.conv(32, 3)
            n.c = c + 32
            n.data()
        if i < 3:
            n.elt()
            n.conv(n.c // 2)
            n.pool(2, 2, 0)
    n.elt()
    n.head()
    return n.ks


def regnetx() -> list[Row]:
    n = Net(224)
    n.conv(32, 3, 2)
    for w, d in ((96, 2), (192, 6), (432, 15), (1008, 2)):
        for j in range(d):
            ci, h = n.c, n.h
            st = 2 if j == 0 else 1
            n.conv(w)
            n.conv(w, 3, st, w // 48)
            n.conv(w)
            if j == 0:
                n.beside(ci, h, w, 2)
            n.elt(2)
    n.head()
    return n.ks


def shuffle2() -> list[Row]:
    n = Net(224)
    n.conv(24, 3, 2)
    n.pool()
    for c, r in ((116, 4), (232, 8), (464, 4)):
        for i in range(r):
            b = c // 2
            ci, h = n.c, n.h
            if i == 0:
                n.conv(ci, 3, 2, ci)
                n.conv(b)
                n.c, n.h = ci, h
                n.conv(b)
                n.conv(b, 3, 2, b)
                n.conv(b)
            else:
                n.c = b
                n.data(c * n.h**2)
                n.conv(b)
                n.conv(b, 3, 1, b)
                n.conv(b)
            n.c = c
            n.data()
            n.data()
    n.conv(1024)
    n.head()
    return n.ks


def squeeze11() -> list[Row]:
    n = Net(224)
    n.conv(64, 3, 2, pad=0)
    n.pool(3, 2, 0)
    for i, (s, e) in enumerate(((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))):
        if i in (2, 4):
            n.pool(3, 2, 0)
        n.conv(s)
        inc(n, [(e, 1, 1)], [(e, 3, 1)])
    n.conv(1000)
    n.pool(n.h, n.h, 0)
    return n.ks


def convnext(dims: Any, depths: Any) -> list[Row]:
    n = Net(224)
    n.conv(dims[0], 4, 4)
    n.elt()
    for i, (c, d) in enumerate(zip(dims, depths, strict=True)):
        if i:
            n.elt()
            n.conv(c, 2, 2)
        for _ in range(d):
            n.conv(c, 7, 1, c)
            n.elt()
            n.conv(4 * c)
            n.elt()
            n.conv(c)
            n.elt()
            n.elt(2)
    n.pool(n.h, n.h, 0)
    n.elt(n=n.c)
    n.fc(1000)
    return n.ks


def vit(t: int = 197, d: int = 768, L: int = 12) -> list[Row]:
    n = Net(224)
    n.conv(d, 16, 16)
    n.data()
    for _ in range(L):
        n.elt(n=t * d)
        n.mm(t, d, 3 * d)
        n.data(3 * t * d)
        n.mm(t, 64, t, False, d // 64)
        n.elt(n=t * t * d // 64)
        n.mm(t, t, 64, False, d // 64)
        n.data(t * d)
        n.mm(t, d, d)
        n.elt(2, t * d)
        n.elt(n=t * d)
        n.mm(t, d, 4 * d)
        n.elt(n=4 * t * d)
        n.mm(t, 4 * d, d)
        n.elt(2, t * d)
    n.elt(n=t * d)
    n.fc(1000, d)
    return n.ks


NETS = {
    "resnet18": lambda: resnet((2, 2, 2, 2), False),
    "resnet50": lambda: resnet((3, 4, 6, 3)),
    "resnet101": lambda: resnet((3, 4, 23, 3)),
    "wideresnet50": lambda: resnet((3, 4, 6, 3), width=128),
    "resnext50": lambda: resnet((3, 4, 6, 3), width=4, groups=32),
    "resnext101": lambda: resnet((3, 4, 23, 3), width=8, groups=32),
    "mobilenet_v2": lambda: mbv2(MBV2),
    "mnasnet05": lambda: mbv2(MNAS05, 16),
    "mobilenet_v3_large": lambda: mbv3(V3L, 1280),
    "mobilenet_v3_small": lambda: mbv3(V3S, 1024),
    "efficientnet_b0": lambda: effnet(1, 1, 224),
    "efficientnet_b4": lambda: effnet(1.4, 1.8, 224),
    "efficientnet_v2_s": effv2s,
    "googlenet": googlenet,
    "inception_v3": inception3,
    "densenet121": densenet,
    "regnet": regnetx,
    "shufflenet_v2": shuffle2,
    "squeezenet1_1": squeeze11,
    "convnext_tiny": lambda: convnext((96, 192, 384, 768), (3, 3, 9, 3)),
    "convnext_base": lambda: convnext((128, 256, 512, 1024), (3, 3, 27, 3)),
    "vit": vit,
}


def published() -> dict[str, list[Kernel]]:
    return {name: [Kernel(*row) for row in make()] for name, make in NETS.items()}
