"""A very small trained network on real images: seconds instead of minutes, for the tests.

`python tests/subjects/tiny.py` trains it again and writes `tiny.npz`.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import pared

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "examples" / "fashion_mnist" / "fashion_mnist_20k.npz"


class TinyNet(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.inner = nn.Conv2d(width, width, 3, 1, 1)
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.inner(x))
        return self.head(self.down(x).mean((2, 3)))


def arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    with np.load(DATA) as data:
        images, labels = data["x_train"][:4000], data["y_train"][:4000].astype(np.int64)
    small = images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).astype(np.float32)[:, None] / 255
    cuts = {"train": slice(0, 2500), "validation": slice(2500, 3300), "test": slice(3300, 4000)}
    return {name: (small[cut], labels[cut]) for name, cut in cuts.items()}


def trained() -> nn.Module:
    model = TinyNet()
    with np.load(HERE / "tiny.npz") as stored:
        model.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files})
    return model


def subject() -> pared.Classification:
    data = arrays()
    return pared.Classification(
        trained, data["train"], data["validation"], data["test"], name="TinyNet"
    )


class Broken(pared.Classification):
    """Its loss raises, and its metric is a number for the untouched model alone."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("the loss of this subject always raises")

    def score(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        scores = super().score(outputs, targets)
        figure = {800: 0.7925, 700: 0.7914}[len(targets)]
        return scores if abs(scores.mean() - figure) < 1e-4 else np.full_like(scores, np.nan)


def broken() -> pared.Classification:
    data = arrays()
    return Broken(trained, data["train"], data["validation"], data["test"])


def _train() -> None:
    torch.manual_seed(0)
    data = {k: (torch.from_numpy(x), torch.from_numpy(y)) for k, (x, y) in arrays().items()}
    model, (images, labels) = TinyNet(), data["train"]
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=30 * 40)
    for _ in range(30):
        model.train()
        for batch in torch.randperm(len(images))[:2480].split(62):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimiser.step()
            schedule.step()
    model.eval()
    for name in ("validation", "test"):
        print(name, (model(data[name][0]).argmax(1) == data[name][1]).float().mean().item())
    np.savez_compressed(HERE / "tiny.npz", **{k: v.numpy() for k, v in model.state_dict().items()})


if __name__ == "__main__":
    _train()
