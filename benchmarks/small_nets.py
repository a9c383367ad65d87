"""Two small nets for the benchmarks of techniques, trained on the demo's images: depthwise-separable, transformer.

Training takes about two minutes a net on one thread; trained weights are kept in build/ for the next benchmark.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import pared

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples" / "fashion_mnist"))
from data import load

CACHE = ROOT / "build" / "small_nets"
EPOCHS, BATCH, RATE = 10, 128, 4e-3


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs), nn.ReLU6(),
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6())


class Separable(nn.Module):
    """MobileNet (Howard et al. 2017, arXiv:1704.04861) for 28x28 grey images, 2.6 M multiply-adds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        sizes = [(32, 48, 1), (48, 64, 1), (64, 96, 2), (96, 96, 1), (96, 128, 2)]
        self.body = nn.Sequential(*(_separable(*size) for size in sizes))
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 1, 28, 28)
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Layer(nn.Module):
    """Pre-norm attention and feed-forward; the number of heads comes from the tensors."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, tokens, width)
        q, k, v = self.qkv(self.norm1(x)).reshape(x.shape[0], x.shape[1], 3, -1, self.head).permute(2, 0, 3, 1, 4)
        mixed = torch.softmax(q @ k.transpose(2, 3) / self.head**0.5, -1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Tokens(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929): 49 patches of 4x4, three layers of 64."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(16, 64), nn.Parameter(0.02 * torch.randn(1, 49, 64))
        self.layers = nn.Sequential(*(Layer(64, 16) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 1, 28, 28)
        patches = x.reshape(-1, 7, 4, 7, 4).permute(0, 1, 3, 2, 4).reshape(-1, 49, 16)
        return self.head(self.norm(self.layers(self.embed(patches) + self.place)).mean(1))


NETS = {"separable": Separable, "tokens": Tokens}


def subject(name: str, seed: int = 0) -> pared.Classification:
    """One of NETS, trained with this seed, with the demo's splits."""
    data = load()
    return pared.Classification(partial(trained, name, seed), data["train"], data["validation"], data["test"],
                                name=f"{name} on Fashion-MNIST, seed {seed}")


def trained(name: str, seed: int) -> nn.Module:
    path = CACHE / f"{name}-{seed}.npz"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        model = _train(name, seed)
        np.savez(path, **{key: value.numpy() for key, value in model.state_dict().items()})
    with np.load(path) as stored:
        model = NETS[name]()
        model.load_state_dict({key: torch.from_numpy(stored[key]) for key in stored.files})
    return model.eval()


def _train(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    images, labels = map(torch.from_numpy, load()["train"])
    model = NETS[name]()
    steps = len(images) // BATCH
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * steps)
    for epoch in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            x = images[batch]
            mirror = torch.rand(len(x)) < 0.5
            x = torch.where(mirror[:, None, None, None], x.flip(3), x)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), labels[batch], label_smoothing=0.05).backward()
            optimiser.step()
            schedule.step()
        print(f"{name} seed {seed}: epoch {epoch + 1} of {EPOCHS}", flush=True)
    return model.eval()
