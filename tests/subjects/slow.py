"""The tiny subject with a loss that hangs: training never ends."""

import sys
import time
from pathlib import Path

from torch import Tensor

import pared

sys.path.insert(0, str(Path(__file__).parent))
from tiny import arrays, trained


class SlowLoss(pared.Classification):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        time.sleep(3600)
        return super().loss(outputs, targets)


def subject() -> pared.Classification:
    data = arrays()
    return SlowLoss(trained, data["train"], data["validation"], data["test"])
