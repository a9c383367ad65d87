"""The nets of MLPerf Tiny and of two search spaces as kernel lists, from their shapes."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from predictor_nets import Net, Row

from pared.hardware_profiles.kernel import Kernel


def tiny_ad() -> list[Row]:
    n = Net(1, 640)
    d = [640] + [128] * 4 + [8] + [128] * 4 + [640]
    for a, b in pairwise(d):
        n.fc(b, a)
    return n.ks


def tiny_ic() -> list[Row]:
    n = Net(32)
    n.conv(16, 3)
    for c, s in ((16, 1), (32, 2), (64, 2)):
        ci, h = n.c, n.h
        n.conv(c, 3, s)
        n.conv(c, 3)
        if s > 1:
            n.beside(ci, h, c, s)
        n.elt(2)
    n.pool(n.h, n.h, 0)
    n.fc(10)
    return n.ks


def tiny_kws() -> list[Row]:
    hw = 125
    ks = [("conv", 64 * 40 * hw, 64 * 40, 490, 64 * hw, 1, 64, 10, 1)]
    for _ in range(4):
        ks += [("dw", 64 * 9 * hw, 576, 64 * hw, 64 * hw, 64, 64, 3, 64), ("pw", 4096 * hw, 4096, 64 * hw, 64 * hw, 64, 64, 1, 1)]
    return [*ks, ("pool", 0, 0, 64 * hw, 64, 64, 64, 25, 1), ("fc", 768, 768, 64, 12, 64, 12, 1, 1)]


def tiny_vww() -> list[Row]:
    n = Net(96)
    n.conv(8, 3, 2)
    for c, s in (
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (128, 2),
        (128, 1),
        (128, 1),
        (128, 1),
        (128, 1),
        (128, 1),
        (256, 2),
        (256, 1),
    ):
        n.conv(n.c, 3, s, n.c)
        n.conv(c)
    n.pool(n.h, n.h, 0)
    n.fc(2)
    return n.ks


TINY = {name: [Kernel(*row) for row in make()] for name, make in (("ad", tiny_ad), ("ic", tiny_ic), ("kws", tiny_kws), ("vww", tiny_vww))}


# --- NAS-Bench-201 and FBNet. Eager: BN, ReLU and `none` edges are kernels; else folded, and dead edges removed.


def conv_bn(n: Net, co: int, k: int = 1, st: int = 1, g: int = 1, eager: bool = False, relu: bool = True) -> None:
    n.conv(co, k, st, g)
    for _ in range((1 + relu) * eager):
        n.elt()


EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


def live(ops: list[str]) -> list[bool]:
    """Which edges of a cell lie on a path from its input to its output."""
    on = [op != "none" for op in ops]
    ahead, back = {0}, {3}
    for (a, b), used in zip(EDGES, on, strict=True):
        if used and a in ahead:
            ahead.add(b)
    for (a, b), used in reversed(list(zip(EDGES, on, strict=True))):
        if used and b in back:
            back.add(a)
    return [used and a in ahead and b in back for (a, b), used in zip(EDGES, on, strict=True)]


def cell(n: Net, ops: list[str], eager: bool) -> None:
    kept = [True] * 6 if eager else live(ops)
    for op, keep in zip(ops, kept, strict=True):
        if keep and op.startswith("nor_conv"):
            conv_bn(n, n.c, int(op[-1]), eager=eager)
        elif keep and op == "avg_pool_3x3":
            n.pool(3, 1, 1)
        elif keep and op == "none":
            n.elt()
    for node in (1, 2, 3):
        for _ in range(sum(k for k, (_, b) in zip(kept, EDGES, strict=True) if b == node) - 1):
            n.elt(2)


def nasbench201(data: Any, i: int, eager: bool) -> list[Kernel]:
    ops = [str(data["op_names"][o]) for o in data["ops"][i]]
    n = Net(32)
    conv_bn(n, 16, 3, eager=eager, relu=False)
    for c in (16, 32, 64):
        if c > 16:
            ci, h = n.c, n.h
            conv_bn(n, c, 3, 2, eager=eager)
            conv_bn(n, c, 3, eager=eager)
            n.ks.append(("pool", 0, 0, ci * h * h, ci * n.h**2, ci, ci, 2, 1))
            n.beside(ci, n.h, c, 1)
            n.elt(2)
        for _ in range(5):
            cell(n, ops, eager)
    if eager:
        n.elt()
        n.elt()
    n.head(10)
    return [Kernel(*row) for row in n.ks]


WIDTHS = [16] + [24] * 4 + [32] * 4 + [64] * 4 + [112] * 4 + [184] * 4 + [352]
HALVED = (5, 9, 17)  # slots with stride 2: the 32 px variant of the space, which the per-slot costs fit


def fbnet(data: Any, i: int, eager: bool) -> list[Kernel]:
    n = Net(32)
    conv_bn(n, 16, 3, eager=eager)
    for slot, (op, co) in enumerate(zip(data["op_idx"][i], WIDTHS, strict=True)):
        block(n, str(data["op_names"][op]), co, 2 if slot in HALVED else 1, eager)
    conv_bn(n, 1504, eager=eager)
    n.head(100)
    return [Kernel(*row) for row in n.ks]


def block(n: Net, op: str, co: int, st: int, eager: bool) -> None:
    """An inverted residual k{kernel}_e{expansion}[_g2], or `skip`: nothing, or 1x1 where the shape changes."""
    same = n.c == co and st == 1
    if op == "skip":
        if not same:
            conv_bn(n, co, 1, st, eager=eager)
        return
    kernel, wide, *two = op.split("_")
    g, inner = (2 if two else 1), n.c * int(wide[1:])
    conv_bn(n, inner, 1, 1, g, eager)
    moved = n.c * n.h**2
    conv_bn(n, inner, int(kernel[1:]), st, inner, eager)
    conv_bn(n, co, 1, 1, g, eager, relu=False)
    if two:
        n.data(moved)
    if same:
        n.elt(2)


SPACES: dict[str, Callable[[Any, int, bool], list[Kernel]]] = {"nasbench201": nasbench201, "fbnet": fbnet}
