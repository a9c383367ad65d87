"""`module:object` or `./file.py:object` -> a checked Subject."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from ...errors import ParedError, SubjectError
from ...spaces.subject import SPLITS, Subject, example_inputs


def find(reference: str, base: Path) -> Subject:
    """The subject that `reference` names, relative paths taken from `base`.

    The object is a Subject, or a function without arguments that returns one. Raises SubjectError.
    """
    return check(load(reference, base, "model"), reference)


def load(reference: str, base: Path, key: str) -> object:
    """What `module:object` or `./file.py:object` names; `key` of the run file is named in a SubjectError."""
    where, colon, name = reference.rpartition(":")
    if not colon or not where or not name:
        raise SubjectError(f"{key}: got {reference!r}; write module:object or ./file.py:object")
    module = _file(base / where, key) if where.endswith(".py") else _module(where, base, key)
    if not hasattr(module, name):
        names = ", ".join(n for n in vars(module) if not n.startswith("_"))
        raise SubjectError(f"{key}: {where} has no {name!r}; it has {names}")
    found: object = getattr(module, name)
    return found


def source(reference: str) -> Path | None:
    """Where the code of a loaded reference is: folder of a file, package, module; None if installed."""
    where = reference.rpartition(":")[0]
    is_file = where.endswith(".py")
    module = sys.modules[Path(where).stem if is_file else where.partition(".")[0]]
    path = Path(module.__file__ or "").resolve()
    if path.is_relative_to(sys.prefix):
        return None
    return path.parent if is_file or path.name == "__init__.py" else path


def check(found: object, reference: str = "subject") -> Subject:
    """The subject itself, called if it is a factory, after one example went through the model."""
    if callable(found) and not isinstance(found, Subject):
        found = guarded(reference, found)
    if not isinstance(found, Subject):
        raise SubjectError(f"model: {reference} is a {type(found).__name__}, not a subject; wrap the "
                           "module and its data in pared.Classification or write a pared.Subject")
    for name in SPLITS:
        split = found.split(name)
        if not len(split):
            raise SubjectError(f"{reference}: the {name} split is empty")
    _try(found, reference)
    return found


def _try(subject: Subject, reference: str) -> None:
    inputs = example_inputs(subject)
    shapes = ", ".join(str(array.shape) for array in inputs)
    try:
        with torch.inference_mode():
            outputs = subject.model().eval()(*(torch.from_numpy(np.array(a)) for a in inputs))
    except Exception as error:
        raise SubjectError(f"{reference}: the model refuses inputs of shape {shapes}: {error}") from error
    first = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    if len(first) != len(inputs[0]):
        raise SubjectError(f"{reference}: outputs of shape {tuple(first.shape)} for inputs {shapes}; "
                           "the first dimension must be the batch")


def _module(name: str, base: Path, key: str) -> ModuleType:
    if str(base) not in sys.path:
        sys.path.insert(0, str(base))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SubjectError(f"{key}: cannot import {name!r}: {error}") from error


def _file(path: Path, key: str) -> ModuleType:
    if not path.is_file():
        raise SubjectError(f"{key}: there is no file {path}")
    known = sys.modules.get(path.stem)
    if key != "model" and known is not None and Path(known.__file__ or "").resolve() == path.resolve():
        return known  # the subject came from it just now; a second copy would have classes of its own
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules[path.stem] = module
    guarded(str(path), lambda: loader.exec_module(module), key)
    return module


def guarded(what: str, call: Callable[[], object], key: str = "model") -> object:
    """What the user's own code returns. Raises SubjectError for whatever it raises."""
    try:
        return call()
    except ParedError:
        raise
    except Exception as error:
        raise SubjectError(f"{key}: {what} raised {type(error).__name__}: {error}") from error
