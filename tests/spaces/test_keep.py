import numpy as np
import pytest
import torch
from helpers import load_tiny
from torch import nn

from pared.errors import ConfigError
from pared.spaces.keep import kept, resolve
from pared.spaces.materials import Materials
from pared.spaces.passes.prune import Prune, PrunePass, prunable

IMAGE = (np.random.default_rng(0).random((2, 1, 14, 14), np.float32),)


@pytest.mark.parametrize(("patterns", "paths"), [
    (["head"], {"head"}), (["stem.*"], {"stem.0", "stem.1"}), (["Linear"], {"head"}),
    (["BatchNorm2d", "down.0"], {"stem.1", "down.0"}), ([], set())])
def test_layers_are_named_by_path_pattern_or_type(patterns: list[str], paths: set[str]) -> None:
    assert set(resolve(patterns, load_tiny().TinyNet())) == paths


def test_a_pattern_that_names_nothing_is_told() -> None:
    with pytest.raises(ConfigError, match="did you mean 'head'"):
        resolve(["haed"], load_tiny().TinyNet())


def test_what_lies_within_a_kept_module_is_kept() -> None:
    assert kept("stem.0.weight", ("stem",)) and not kept("stem2.weight", ("stem",))


def test_a_kept_layer_is_not_narrowed_nor_what_feeds_it() -> None:
    subject = load_tiny().subject()
    model = subject.model()
    assert {group.root for group in prunable(model, IMAGE)} == {"inner", "down.0"}
    assert {group.root for group in prunable(model, IMAGE, ("head",))} == {"inner"}
    pruned = PrunePass().apply(Prune((0.5,), "l2", 8), model, Materials(subject, keep=("head",)))
    assert isinstance(pruned.head, nn.Linear) and torch.equal(pruned.head.weight, model.head.weight)
