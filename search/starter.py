"""What people start from: the demo's settings, and the files that `pared init` writes."""

from pathlib import Path

from ..errors import RunError
from .config import RunConfig, build

DEMO = Path(__file__).parent.parent / "examples" / "fashion_mnist"

RUN_FILE = """\
# A search: `pared search run.yaml`. Every key: README.md, or the schema of your editor.
model: ./subject.py:subject
profiles: [host-cpu]
budgets:
  host-cpu: {latency: 3x}      # 2ms, 50% of the untouched model, or 3x faster
  # size: 25%                  # of the file
max_accuracy_drop: 0.01        # one point
search: {trials: 60, timeout: 30m, seed: 0}
# space:                       # switch techniques off, or narrow their knobs
#   fp16: false
#   recover: {epochs: [1, 4]}
# cluster: {address: auto, workers: 16}
"""

SUBJECT_FILE = '''\
"""The model to compress, and the data that judge the result."""

import numpy as np
import torch

import pared


def trained() -> torch.nn.Module:
    """Replace this by your model, with its trained weights loaded."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, stride=2, padding=1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 4),
    )


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Replace this by your data: inputs (n, ...) and integer labels (n,), or DataLoaders."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    inputs = rng.normal(size=(n, 1, 16, 16)).astype(np.float32)
    inputs += labels[:, None, None, None] / 2
    return inputs, labels


def subject() -> pared.Classification:
    return pared.Classification(
        trained, train=images(2000, 1), validation=images(1000, 2), test=images(1000, 3)
    )
'''


def demo(trials: int) -> tuple[RunConfig, Path]:
    """The demo's config and the folder its model is relative to. Raises RunError outside a clone."""
    if not (DEMO / "weights.npz").is_file():
        raise RunError(f"the demo's model and data are not in {DEMO}; run the demo from a clone of "
                       "the repository")
    fields = {"model": "./subject.py:subject", "max_accuracy_drop": 0.01,
              "space": {"prune": {"ratio": [0.3, 0.8]}, "recover": {"epochs": [1, 2]},
                        "qat": False, "sparsify": False, "binary": False},  # longer than a demo may take
              "search": {"trials": trials, "timeout": "280s"}}
    return build(fields, {}, "demo"), DEMO


def write(folder: Path) -> list[Path]:
    """Writes `run.yaml` and `subject.py`. Raises RunError rather than overwrite anything."""
    files = {folder / "run.yaml": RUN_FILE, folder / "subject.py": SUBJECT_FILE}
    for path in files:
        if path.exists():
            raise RunError(f"{path} exists already; nothing was written")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error}") from error
    return list(files)
