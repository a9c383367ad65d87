"""The demo's subject: what anyone writes for a model of their own."""

from pathlib import Path

import numpy as np
import torch
from data import load
from model import ResNet8

import pared


def trained() -> torch.nn.Module:
    model = ResNet8()
    with np.load(Path(__file__).parent / "weights.npz") as stored:
        weights = {name: torch.from_numpy(stored[name]) for name in stored.files}
    model.load_state_dict(weights)
    return model


RECOVERY = 12_000  # training images that recovery sees: three quarters of them keep the demo short


def subject() -> pared.Classification:
    data = load()
    images, labels = data["train"]
    return pared.Classification(
        trained,
        train=(images[:RECOVERY], labels[:RECOVERY]),
        validation=data["validation"],
        test=data["test"],
        name="ResNet-8 on Fashion-MNIST",
    )
