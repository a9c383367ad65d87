"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 20,000 training and 10,000 test images."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
VALIDATION = 4_000

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]


def load() -> dict[str, Arrays]:
    """Images (n, 1, 28, 28), normalised, and labels (n,), as train, validation and test."""
    with np.load(HERE / "fashion_mnist_20k.npz") as data:
        train = _prepare(data["x_train"], data["y_train"])
        test = _prepare(data["x_test"], data["y_test"])
    order = np.random.default_rng(0).permutation(len(train[1]))
    held_out, rest = order[:VALIDATION], order[VALIDATION:]
    return {
        "train": (train[0][rest], train[1][rest]),
        "validation": (train[0][held_out], train[1][held_out]),
        "test": test,
    }


def _prepare(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Arrays:
    scaled = (images.astype(np.float32) / 255 - 0.286) / 0.353  # mean and deviation of the pixels
    return scaled[:, None], labels.astype(np.int64)
