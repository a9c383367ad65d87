"""The tiny subject, with a loss that takes memory; and with more data than an object store may hold."""

import sys
from pathlib import Path

import numpy as np
from torch import Tensor

import pared

sys.path.insert(0, str(Path(__file__).parent))
from tiny import arrays, trained

GIGABYTES = 6
HELD = []


class HungryLoss(pared.Classification):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        HELD.append(np.ones(GIGABYTES << 27))
        return super().loss(outputs, targets)


def hungry() -> pared.Classification:
    data = arrays()
    return HungryLoss(trained, data["train"], data["validation"], data["test"])


def much_data() -> pared.Classification:
    """157 MB of images to train on."""
    data = arrays()
    images, labels = (np.concatenate([part] * 80) for part in data["train"])
    return pared.Classification(trained, (images, labels), data["validation"], data["test"])
