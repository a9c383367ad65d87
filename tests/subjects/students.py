"""Other architectures for the tiny subject, good ones and wrong ones."""

from tiny import TinyNet
from torch import Tensor, nn


class Pair(nn.Module):
    """Two convolutions and no residual: another architecture than TinyNet."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
                                  nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def small() -> nn.Module:
    return Pair()


def narrow() -> nn.Module:
    return TinyNet(8)


def five_classes() -> nn.Module:
    return Pair(5)


def colour() -> nn.Module:
    return nn.Conv2d(3, 8, 3)


def raises() -> nn.Module:
    raise ValueError("no weights here")


def no_module() -> str:
    return "not a module"


module = Pair()
