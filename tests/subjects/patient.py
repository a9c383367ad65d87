"""The tiny subject whose score takes its time: trials that can be broken in the middle, and cost no CPU."""

import sys
import time
from pathlib import Path

import numpy as np

import pared

sys.path.insert(0, str(Path(__file__).parent))
from tiny import arrays, trained


class Patient(pared.Classification):
    def score(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        time.sleep(2)
        return super().score(outputs, targets)


def subject() -> pared.Classification:
    data = arrays()
    return Patient(trained, data["train"], data["validation"], data["test"])
