"""Small kernel lists for the tests of predictions, and a machine whose latencies are known."""

from dataclasses import dataclass

from pared.hardware_profiles.graph import Kernel


def conv(c_in: int, c_out: int, side: int, kernel: int = 3) -> Kernel:
    op = "pw" if kernel == 1 else "conv"
    area = side * side
    return Kernel(op, c_in * c_out * kernel**2 * area, c_in * c_out * kernel**2, c_in * area, c_out * area, c_in, c_out, kernel, 1)


def depthwise(channels: int, side: int) -> Kernel:
    area = side * side
    return Kernel("dw", channels * 9 * area, channels * 9, channels * area, channels * area, channels, channels, 3, channels)


def fc(c_in: int, c_out: int) -> Kernel:
    return Kernel("fc", c_in * c_out, c_in * c_out, c_in, c_out, c_in, c_out, 1, 1)


def narrow(width: float, depth: int = 3) -> list[Kernel]:
    """A net of convolutions at a share of its width."""
    c = max(8, round(64 * width))
    stages = [layer for i in range(depth) for layer in (conv(c * 2**i, c * 2**i, 32 // 2**i), conv(c * 2**i, c * 2 ** (i + 1), 32 // 2**i, 1))]
    return [conv(3, c, 32), *stages, fc(c * 2**depth, 10)]


def separable(width: float) -> list[Kernel]:
    c = max(8, round(96 * width))
    return [conv(3, c, 32), *[k for _ in range(4) for k in (depthwise(c, 32), conv(c, c, 32, 1))], fc(c, 10)]


def nets() -> list[list[Kernel]]:
    """Fifteen different ones."""
    return [*(narrow(w, d) for w in (0.3, 0.5, 0.7, 1.0) for d in (2, 3)), *(separable(w) for w in (0.3, 0.5, 0.8, 1.0, 1.5)),
            [fc(512, 512)] * 6, [conv(128, 128, 14)] * 5]


@dataclass(frozen=True)
class Machine:
    """Microseconds per million MACs, per million bytes, per kernel."""

    mac_us: float
    byte_us: float
    kernel_us: float

    def ms(self, net: list[Kernel]) -> float:
        macs = sum(k.macs for k in net) / 1e6
        mb = 4 * sum(k.weights + k.in_elems + k.out_elems for k in net) / 1e6
        return (macs * self.mac_us + mb * self.byte_us + len(net) * self.kernel_us) / 1e3
