"""The contract that every pass over a torch module keeps, on convolutions and on two kinds of transformer."""

import copy
import importlib
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from structures import IMAGES, TOKENS, HandWritten, Residual, Stock, at_hand, built
from torch import Tensor, nn

from pared.errors import CandidateError
from pared.evaluators.export import export
from pared.hardware_profiles.load import load
from pared.spaces.passes import MODULE, Scope
from pared.spaces.passes.prune import prunable
from pared.spaces.recipe import Recipe, from_json
from pared.spaces.survey import survey

pytestmark = pytest.mark.slow
CASES: dict[str, tuple[type[nn.Module], np.ndarray]] = {
    "convolutions": (Residual, IMAGES), "hand-written": (HandWritten, TOKENS), "encoder": (Stock, TOKENS)}
NARROWING = ("depth", "prune", "heads", "low_rank")  # all of them make tensors smaller
# What replaces the working part of a pass that is no function of its module with a name in `_`.
SABOTAGE: dict[str, tuple[str, Callable[..., Any]]] = {
    "sparsify": ("Mask.forward", lambda mask, weight: weight),
}


@cache
def original(kind: str) -> tuple[nn.Module, onnx.ModelProto]:
    make, data = CASES[kind]
    model = built(make)
    return model, export(model, (data[:2],))


@cache
def scope(kind: str, keep: tuple[str, ...] = ()) -> Scope:
    (model, graph), data = original(kind), CASES[kind][1]
    subject = at_hand(model, data).subject
    return survey(model, (data[:2],), graph, (load("host-cpu"),), keep, subject=subject)


def apply(name: str, step: Any, kind: str, keep: tuple[str, ...] = ()) -> nn.Module:
    model = original(kind)[0]
    return MODULE[name].apply(step, model, at_hand(model, CASES[kind][1], keep=keep))


@cache
def applied(name: str, i: int, kind: str) -> nn.Module:
    return apply(name, step_of(name, i, kind), kind)


def step_of(name: str, i: int, kind: str) -> Any:
    return MODULE[name].decode(MODULE[name].usual(scope(kind))[i], scope(kind))


def tensors(model: nn.Module, like: nn.Module) -> dict[str, Tensor]:
    """The parameters that `like` has, as the model uses them; one that is gone is empty."""
    found = {}
    for path, _ in like.named_parameters():
        owner, _, name = path.rpartition(".")
        try:
            found[path] = getattr(model.get_submodule(owner), name).detach()
        except AttributeError:
            found[path] = torch.empty(0)
    return found


def changed(model: nn.Module, like: nn.Module) -> list[str]:
    mine, theirs = tensors(model, like), tensors(like, like)
    return [path for path in mine if not torch.equal(mine[path], theirs[path])]


def weights(graph: onnx.ModelProto) -> int:
    """Those that are not zero."""
    return sum(int(np.count_nonzero(onnx.numpy_helper.to_array(tensor))) for tensor in graph.graph.initializer)


USEFUL = [(name, i, kind) for kind in CASES for name in MODULE if not MODULE[name].refused(scope(kind))
          for i in range(len(MODULE[name].usual(scope(kind))))]
each = pytest.mark.parametrize(("name", "i", "kind"), USEFUL, ids=lambda value: str(value))


def test_every_structure_is_of_use_somewhere() -> None:
    assert {name for name, _, _ in USEFUL} >= set(MODULE) - {"student"}


@each
def test_it_is_deterministic_and_leaves_its_input_alone(name: str, i: int, kind: str) -> None:
    model = original(kind)[0]
    before, flags = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    once, twice = applied(name, i, kind).state_dict(), apply(name, step_of(name, i, kind), kind).state_dict()
    assert once.keys() == twice.keys() and all(torch.equal(once[key], twice[key]) for key in once)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert flags == [p.requires_grad for p in model.parameters()] and not model.training


@each
def test_it_shares_no_memory_with_its_input(name: str, i: int, kind: str) -> None:
    theirs = {parameter.data_ptr() for parameter in original(kind)[0].parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in applied(name, i, kind).parameters()}


@each
def test_it_changes_the_model_and_leaves_it_trainable(name: str, i: int, kind: str) -> None:
    model, data = original(kind)[0], torch.from_numpy(CASES[kind][1])
    after = applied(name, i, kind)
    assert changed(after, model)
    copied = copy.deepcopy(after).train()
    copied(data).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in copied.parameters())
    want, got = model(data), after.eval()(data)
    assert want.shape == got.shape and torch.isfinite(got).all()


@pytest.mark.slow
@each
def test_its_result_exports_to_a_file_with_fewer_weights(name: str, i: int, kind: str) -> None:
    graph = export(copy.deepcopy(applied(name, i, kind)), (CASES[kind][1][:2],))
    onnx.checker.check_model(graph)
    assert weights(graph) < weights(original(kind)[1])


@each
def test_a_kept_layer_is_what_it_was(name: str, i: int, kind: str) -> None:
    model = original(kind)[0]
    first = changed(applied(name, i, kind), model)[0].rpartition(".")[0]
    kept = scope(kind, (first,))
    if MODULE[name].refused(kept):
        return
    step = MODULE[name].decode(MODULE[name].usual(kept)[i], kept)
    try:
        after = apply(name, step, kind, (first,))
    except CandidateError:
        return  # nothing else to change is a reason as well
    assert not [path for path in changed(after, model) if path.startswith(f"{first}.")]


@each
def test_its_step_is_the_same_after_the_recipe_went_through_a_file(name: str, i: int, kind: str) -> None:
    step = step_of(name, i, kind)
    recipe = Recipe((step,))
    assert from_json(recipe.json).steps == (step,) and from_json(recipe.json).digest == recipe.digest
    assert str(step) and "\n" not in str(step) and fields(step)


@each
def test_its_usual_settings_lie_within_its_knobs(name: str, i: int, kind: str) -> None:
    knobs = MODULE[name].knobs(scope(kind))
    setting = MODULE[name].usual(scope(kind))[i]
    assert set(setting) <= set(knobs)
    assert all(value in knobs[knob] for knob, value in setting.items())


@each
def test_a_sabotaged_pass_is_caught(name: str, i: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its working part works on another copy, and says that all is done."""
    step = step_of(name, i, kind)
    module = importlib.import_module(type(MODULE[name]).__module__)
    workers = {key: value for key, value in vars(module).items()
               if key.endswith("_") and not key.startswith("_") and callable(value)}
    if name in SABOTAGE:
        target, replacement = SABOTAGE[name]
        monkeypatch.setattr(f"{module.__name__}.{target}", replacement)
    for key, honest in workers.items() if name not in SABOTAGE else ():
        monkeypatch.setattr(module, key, elsewhere(honest))
    assert workers or name in SABOTAGE, f"say in SABOTAGE how {name} can be sabotaged"
    with pytest.raises(CandidateError):
        apply(name, step, kind)


def elsewhere(honest: Callable[..., Any]) -> Callable[..., Any]:
    def sabotaged(model: nn.Module, *args: Any, **more: Any) -> Any:
        return honest(copy.deepcopy(model), *args, **more)

    return sabotaged


def test_pruning_finds_the_feed_forward_neurons_of_torchs_encoder() -> None:
    found = prunable(original("encoder")[0], (TOKENS[:2],))
    assert {group.root for group in found} == {f"encoder.layers.{i}.linear1" for i in range(3)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_all_that_may_go_together_does(kind: str) -> None:
    """In the order of a recipe, each on what the one before left."""
    model, names = original(kind)[0], [name for name in NARROWING if (name, 0, kind) in USEFUL]
    recipe = Recipe(tuple(step_of(name, 0, kind) for name in names))  # raises where they may not
    counts = [sum(p.numel() for p in model.parameters())]
    for name, step in recipe.module_steps:
        model = MODULE[name].apply(step, model, at_hand(original(kind)[0], CASES[kind][1]))
        counts.append(sum(p.numel() for p in model.parameters()))
    assert counts == sorted(set(counts), reverse=True)
    assert weights(export(model, (CASES[kind][1][:2],))) < weights(original(kind)[1])
