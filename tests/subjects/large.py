"""The tiny subject, with a loss that leaks memory; and with more data than an object store may hold."""

import sys
from pathlib import Path

import numpy as np
from torch import Tensor

import pared

sys.path.insert(0, str(Path(__file__).parent))
from tiny import arrays, trained

LEAKED = []


class LeakingLoss(pared.Classification):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        LEAKED.append(np.ones(1 << 26))  # half a gigabyte a step
        return super().loss(outputs, targets)


def leaking() -> pared.Classification:
    data = arrays()
    return LeakingLoss(trained, data["train"], data["validation"], data["test"])


def much_data() -> pared.Classification:
    """157 MB of images to train on."""
    data = arrays()
    images, labels = (np.concatenate([part] * 80) for part in data["train"])
    return pared.Classification(trained, (images, labels), data["validation"], data["test"])
