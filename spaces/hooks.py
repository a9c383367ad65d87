"""Looking into a model while it runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def hooked(model: nn.Module, hooks: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """With forward hooks (module, args, kwargs, output) on the modules at these paths."""
    handles = [model.get_submodule(path).register_forward_hook(hook, with_kwargs=True)
               for path, hook in hooks.items()]
    try:
        with step_by_step():
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def step_by_step() -> Iterator[None]:
    """Without the fused kernel of torch's encoder: it calls no submodule and rewrites padded inputs."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
