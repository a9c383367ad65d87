"""Measures a `Sensitivity`: every layer alone at every number of bits and every width, on real examples.

Measured rather than estimated from gradients: slopes of the outputs rank layers as well down to three bits,
but not at two (rank correlation 0.86 with what is measured, `benchmarks/mixed.py`), and a layer at half its
width is further still from a small change.
"""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ..hardware_profiles.kernel import Kernel
from ._replay import HEAVY, Replay
from .fingerprint import add_arrays, code
from .graph.grid import Layout, grid, layouts
from .graph.weighted import array as array_of
from .graph.weighted import weights
from .keep import kept
from .passes._channels import dependencies, group_of, producers, prunable
from .passes._cost import kernels
from .passes._importance import scores
from .sensitivity import BITS, RATIOS, Layer, Sensitivity
from .subject import Array

EXAMPLES, FEWEST, BATCH = 128, 16, 32
BLOCK = 32  # inputs of a matrix product that share a scale
BUDGET = 5.5e11  # multiply-adds: about seven seconds of one core
WORST = 1e6  # stands for a distance that is no number, so that it can be added and written down

Weights = Mapping[str, Tensor]
Watch = Callable[[float], None]


@dataclass(frozen=True)
class Change:
    """One layer changed: where its rise belongs, and the parameters that do it."""

    kind: str  # "bits", "int8" or "ratios"
    layer: str
    amount: float  # bits, or the ratio
    weights: Callable[[], Weights] = field(repr=False)


def measure(
    model: nn.Module,
    file: onnx.ModelProto,
    examples: tuple[Array, ...],
    keep: tuple[str, ...] = (),
    on_step: Watch = lambda _: None,
) -> Sensitivity:
    """`file` is the export of `model`; `examples` are calibration inputs, each (n, ...).

    At most 128 examples are used, fewer where a model is large: the work is bounded. `on_step` gets the
    share done, 0-1.
    """
    changes = [*rounded(model, file, keep), *narrowed(model, examples, keep)]
    batches = list(_batches(model, examples, len(changes)))
    wrong, total = np.zeros(len(changes)), 0.0
    for at, batch in enumerate(batches):
        replay = Replay(model, batch)
        total += float((replay.untouched**2).sum())
        for i, change in enumerate(changes):
            outputs = replay.outputs(change.weights(), change.kind == "int8")
            wrong[i] += float(((outputs - replay.untouched) ** 2).sum())
            on_step((at + (i + 1) / len(changes)) / len(batches))
    found = _table(changes, wrong / max(total, 1e-30))
    return replace(found, layers=layers(model, file, examples, found.bits),
                   examples=sum(len(batch[0]) for batch in batches))


def key(
    model: nn.Module, file: bytes, examples: tuple[Array, ...], keep: tuple[str, ...] = ()
) -> str:
    """sha256 over everything the figures depend on: equal only where they are."""
    settings = [code(), EXAMPLES, FEWEST, BATCH, BUDGET, BLOCK, BITS, RATIOS, keep]
    digest = sha256(json.dumps(settings).encode())
    digest.update(sha256(file).digest())
    add_arrays(digest, {str(i): array[:EXAMPLES] for i, array in enumerate(examples)})
    add_arrays(digest, model.state_dict())
    return digest.hexdigest()


def rounded(model: nn.Module, file: onnx.ModelProto, keep: tuple[str, ...] = ()) -> list[Change]:
    """Every weight that the file and the module both know, rounded to nearest as `weight_only` does.

    The file holds convolutions with their batch norm folded in. That scales whole outputs, which have
    scales of their own, so both round to the same.
    """
    parameters = dict(model.named_parameters())
    names = [name for name in weights(file) if name in parameters and not kept(name, keep)]
    products = {node.input[1] for node in file.graph.node if node.op_type == "MatMul"}
    changes = []
    for name in names:
        block = BLOCK if name in products else 0
        weight = parameters[name].detach()
        changes += [Change("bits", name, bits, _rounding(name, weight, bits, block)) for bits in BITS]
        changes.append(Change("int8", name, 8, _rounding(name, weight, 8, 0)))
    return changes


def narrowed(model: nn.Module, examples: tuple[Array, ...], keep: tuple[str, ...] = ()) -> list[Change]:
    """Every group of channels that can be cut, its least channels by l2 norm zeroed."""
    few = tuple(array[:2] for array in examples)
    groups = prunable(model, few, keep)
    found = scores(model, [group.root for group in groups], "l2", few) if groups else {}
    parameters, traced = dict(model.named_parameters()), copy.deepcopy(model)
    graph = dependencies(traced, few)
    changes = []
    for group in groups:
        order = found[group.root].argsort().tolist()
        for ratio in RATIOS:
            rows = order[: round(group.width * ratio)]
            gone = producers(traced, graph, group_of(graph, traced.get_submodule(group.root), rows))
            changes.append(Change("ratios", group.root, ratio, _zeroing(model, parameters, gone)))
    return changes


def layers(
    model: nn.Module, file: onnx.ModelProto, examples: tuple[Array, ...], names: Iterable[str]
) -> dict[str, Layer]:
    """What each of these weights costs; one that belongs to no convolution or linear layer has no kernel."""
    shapes, tensors = layouts(file), weights(file)
    operators = {node.input[1]: node.op_type for node in file.graph.node if len(node.input) > 1}
    paths = {name: name.rpartition(".")[0] for name in names}
    heavy = [path for path in paths.values() if isinstance(model.get_submodule(path), HEAVY)]
    calls: dict[str, list[Kernel]] = {}
    for path, kernel in kernels(model, heavy, tuple(array[:2] for array in examples)):
        calls.setdefault(path, []).append(kernel)
    found = {}
    for name, path in paths.items():
        outputs, inputs = shapes[name].matrix(array_of(tensors[name])).shape
        found[name] = Layer(operators[name], outputs, inputs, tuple(calls.get(path, ())))
    return found


def _rounding(name: str, weight: Tensor, bits: int, block: int) -> Callable[[], Weights]:
    def change() -> Weights:
        array = weight.numpy()
        found = grid(array, Layout(array.shape), 2**bits, block)
        return {name: torch.from_numpy(found.weight).to(weight.dtype)}

    return change


def _zeroing(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], gone: Mapping[str, Sequence[int]]
) -> Callable[[], Weights]:
    def change() -> Weights:
        found = {}
        for path, channels in gone.items():
            tensor = parameters[path].detach().clone()
            owner, _, name = path.rpartition(".")
            turned = name == "weight" and getattr(model.get_submodule(owner), "transposed", False)
            tensor.index_fill_(int(bool(turned)), torch.tensor(channels), 0.0)
            found[path] = tensor
        return found

    return change


def _batches(model: nn.Module, examples: tuple[Array, ...], changes: int) -> Iterator[tuple[Array, ...]]:
    macs = Replay(model, tuple(array[:2] for array in examples)).macs / len(examples[0][:2])
    fit = int(BUDGET / max(1.0, macs * changes)) // FEWEST * FEWEST
    count = min(EXAMPLES, max(FEWEST, fit), len(examples[0]))
    for at in range(0, count, BATCH):
        yield tuple(array[at : min(at + BATCH, count)] for array in examples)


def _table(changes: Iterable[Change], rises: Iterable[float]) -> Sensitivity:
    bits: dict[str, dict[int, float]] = {}
    ratios: dict[str, dict[float, float]] = {}
    int8: dict[str, float] = {}
    for change, rise in zip(changes, rises, strict=True):
        found = float(rise) if np.isfinite(rise) else WORST
        if change.kind == "bits":
            bits.setdefault(change.layer, {})[int(change.amount)] = found
        elif change.kind == "ratios":
            ratios.setdefault(change.layer, {})[change.amount] = found
        else:
            int8[change.layer] = found
    return Sensitivity(bits, ratios, int8)
