"""Trains the demo network from scratch and writes `weights.npz`: `python examples/fashion_mnist/train.py`.

SGD with a one-cycle rate, mirrored and shifted images, seed 0; about 20 minutes on two cores.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

sys.path.insert(0, str(Path(__file__).parent))
from data import load
from model import ResNet8

EPOCHS, BATCH, RATE = 16, 128, 0.2


def augmented(images: Tensor) -> Tensor:
    """Each image mirrored with probability 1/2, the batch shifted by up to two pixels."""
    mirror = torch.rand(len(images)) < 0.5
    images = torch.where(mirror[:, None, None, None], images.flip(3), images)
    dx, dy = torch.randint(0, 5, (2,)).tolist()
    return pad(images, (2, 2, 2, 2), mode="replicate")[..., dy : dy + 28, dx : dx + 28]


def accuracy(model: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    with torch.inference_mode():
        hits = [model(x).argmax(1) == y for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return torch.cat(hits).float().mean().item()


def main() -> None:
    torch.manual_seed(0)
    data = {name: (torch.from_numpy(x), torch.from_numpy(y)) for name, (x, y) in load().items()}
    images, labels = data["train"]
    model = ResNet8().to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
            optimiser.zero_grad()
            cross_entropy(model(augmented(images[batch])), labels[batch], label_smoothing=0.05).backward()
            optimiser.step()
            schedule.step()
        seen = accuracy(model, *data["validation"])
        print(f"epoch {epoch + 1}/{EPOCHS}: validation {seen:.4f}", flush=True)
    model.half().float()  # stored in 16 bits: what is shipped is what is tested
    print(f"test {accuracy(model, *data['test']):.4f}")
    weights = {name: value.half().numpy() if value.is_floating_point() else value.numpy()
               for name, value in model.state_dict().items()}
    np.savez_compressed(Path(__file__).parent / "weights.npz", **weights)


if __name__ == "__main__":
    main()
