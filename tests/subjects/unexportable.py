"""A model whose path through the code is decided by the data."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import pared

sys.path.insert(0, str(Path(__file__).parent))
from tiny import arrays


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(14 * 14, 10)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return self.head(torch.relu(x).flatten(1))


def subject() -> pared.Classification:
    data = arrays()
    return pared.Classification(Undecided(), data["train"], data["validation"], data["test"])
