"""What a result depends on, as texts: `content` of the model, its data and its loss; `code` of this package.

Names and shapes say nothing of weights, and weights nothing of dropout, of a loss or of a `forward` that
trains differently. So all of it counts: the weights, the data, the source files of the user's classes, and
the gradients of one small training step, which show what no source file does.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor, nn

from .subject import Array, Split, Subject

if TYPE_CHECKING:
    from hashlib import _Hash

LIBRARIES = ("torch", "torch-pruning", "numpy", "onnx", "onnxruntime", "onnxscript")
PROBE = 8  # training examples of the small step
LIMIT_S = 20.0


def content(subject: Subject) -> str:
    """sha256 of everything about a subject that a training of it, in any recipe, depends on."""
    digest = sha256()
    model = subject.model()
    _add_module(digest, model)
    _add_sources(digest, [subject, *model.modules()])
    for split in (subject.split("train"), subject.split("calibration")):
        add_arrays(digest, {f"{i}": array for i, array in enumerate((*split.inputs, split.targets))})
    step = _in_time(lambda: _step(subject, model))
    if step:
        add_arrays(digest, step)
    else:  # what is not known is equal to nothing
        digest.update(uuid4().bytes)
    return digest.hexdigest()


def of_module(model: nn.Module) -> str:
    """sha256 of a module: its structure, its weights, its source."""
    digest = sha256()
    _add_module(digest, model)
    _add_sources(digest, model.modules())
    return digest.hexdigest()


@cache
def code() -> str:
    """sha256 of the code that turns a recipe into a file, and the versions of the libraries it uses."""
    root = Path(__file__).parent.parent
    files = sorted((*(root / "spaces").rglob("*.py"), root / "evaluators" / "export.py"))
    digest = sha256(json.dumps([version(name) for name in LIBRARIES]).encode())
    for file in files:
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def add_arrays(digest: "_Hash", arrays: Mapping[str, Array | Tensor]) -> None:
    """Names, types, shapes and bytes."""
    for name, array in arrays.items():
        if isinstance(array, Tensor):
            kind, raw = array.dtype, array.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        else:
            kind, raw = array.dtype, np.ascontiguousarray(array)  # type: ignore[assignment]
        digest.update(f"{name}{kind}{tuple(array.shape)}".encode())
        digest.update(raw.tobytes())


def _add_module(digest: "_Hash", model: nn.Module) -> None:
    digest.update(repr(model).encode())  # what has no weights: dropout, strides, activations
    state = model.state_dict()
    add_arrays(digest, {name: value for name, value in state.items() if isinstance(value, Tensor)})
    digest.update(repr([value for value in state.values() if not isinstance(value, Tensor)]).encode())


def _add_sources(digest: "_Hash", objects: Iterable[object]) -> None:
    """The files that define the classes, but those of installed libraries: their versions say enough."""
    kinds = {type(each) for each in objects}
    for name in sorted({_source(kind) for kind in kinds}):
        digest.update(name.encode())


def _source(kind: type) -> str:
    try:
        file = Path(inspect.getfile(kind))
    except (TypeError, OSError):  # made in a notebook or by exec: its behaviour still counts
        return kind.__qualname__
    if "site-packages" in file.parts or not file.exists():
        return f"{kind.__module__}.{kind.__qualname__}"
    return sha256(file.read_bytes()).hexdigest()


def _in_time(work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Nothing where the user's loss or model raises, or takes longer than LIMIT_S; trials will say why."""
    found: dict[str, Tensor] = {}

    def run() -> None:
        with suppress(Exception):
            found.update(work())

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    return {} if thread.is_alive() else found


def _step(subject: Subject, model: nn.Module) -> dict[str, Tensor]:
    """Losses and gradients of a few training examples, in training mode."""
    few: Split = subject.split("train").take(slice(0, PROBE))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on how they are split
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = model.train()(*(torch.from_numpy(np.array(array)) for array in few.inputs))
            outputs = found if isinstance(found, Tensor) else found[0]
            hard = subject.loss(outputs, torch.from_numpy(np.array(few.targets)))
            soft = subject.soft_loss(outputs, outputs.detach().flip(0), 2.0)
            (hard + soft).backward()  # type: ignore[no-untyped-call]
    finally:
        torch.set_num_threads(threads)
        model.eval()
    slopes = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"hard": hard.detach(), "soft": soft.detach(), **slopes}
