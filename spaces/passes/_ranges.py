"""Ranges of activations that leave the least squared error of 8-bit rounding.

The search of Choukroun et al. 2019 (OMSE, arXiv:1902.06822), with both ends free: clipping a few
outliers can pay for finer steps everywhere else.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

BINS, LEVELS = 2048, 256
SHRINKS = np.linspace(1.0, 0.2, 33)  # of each end
# Rounded in the range of what follows, or in a range of their own.
_SETTLED = ("Relu", "Clip"), ("Softmax",)

Range = tuple[float, float]
Floats = NDArray[np.float64]


def least_squares(
    model: onnx.ModelProto, batches: Sequence[Mapping[str, NDArray[np.generic]]]
) -> dict[str, Range]:
    """Tensor -> (low, high) around zero, for every float activation; shapes must be in the model."""
    watched = _watched(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(_with_outputs(model, watched), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs() if value.name in watched]

    def values() -> Iterable[tuple[str, NDArray[np.float32]]]:
        for batch in batches:
            inputs = [(name, array) for name, array in batch.items() if name in watched]
            yield from [*inputs, *zip(names, session.run(names, dict(batch)), strict=True)]

    full: dict[str, Range] = {}
    for name, array in values():
        low, high = full.get(name, (0.0, 0.0))
        full[name] = min(low, float(array.min())), max(high, float(array.max()))
    full = {name: ends for name, ends in full.items() if ends[0] < ends[1]}
    counts = {name: np.zeros(BINS) for name in full}
    for name, array in values():
        if name in full:
            counts[name] += _histogram(array, full[name])
    return {name: shrunk(counts[name], ends) for name, ends in full.items()}


def _histogram(array: NDArray[np.float32], ends: Range) -> NDArray[np.int64]:
    """Counts in equal bins, (BINS,), zeros left out: they cost nothing in any range."""
    def bins(values: NDArray[np.float32]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.minimum((values - low) * per_unit, BINS - 1).astype(np.int64)
        return found

    low, per_unit = np.float32(ends[0]), np.float32(BINS / (ends[1] - ends[0]))
    counts = np.bincount(bins(array.ravel()), minlength=BINS)
    counts[bins(np.zeros(1, np.float32))] -= array.size - np.count_nonzero(array)
    return counts


def shrunk(counts: Floats, full: Range) -> Range:
    """The part of the full range that leaves the least squared error; `counts` are of equal bins, (BINS,)."""
    edges = np.linspace(*full, len(counts) + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    lows = full[0] * SHRINKS if full[0] < 0 else np.zeros(1)
    highs = full[1] * SHRINKS if full[1] > 0 else np.zeros(1)
    tries = [(float(low), float(high)) for low in lows for high in highs]
    return min(tries, key=lambda ends: error(counts, centres, ends))


def error(counts: Floats, centres: Floats, ends: Range) -> float:
    """Sum of the squared errors of rounding to 256 levels between the ends, zero among them."""
    low, high = ends
    scale = (high - low) / (LEVELS - 1)
    zero = np.rint(-low / scale)
    back = (np.clip(np.rint(centres / scale) + zero, 0, LEVELS - 1) - zero) * scale
    return float(counts @ (back - centres) ** 2)


def _watched(model: onnx.ModelProto) -> set[str]:
    """Float inputs and activations whose range is a matter of choice."""
    graph = model.graph
    floats = {value.name for value in (*graph.input, *graph.value_info, *graph.output)
              if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    made = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    before, own = _SETTLED
    settled = {name for name, kinds in readers.items() if kinds <= set(before)}
    settled |= {name for node in graph.node if node.op_type in own for name in node.output}
    return (floats & made) - settled - {tensor.name for tensor in graph.initializer}


def _with_outputs(model: onnx.ModelProto, names: set[str]) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in (*copy.graph.output, *copy.graph.input)}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names - known))
    content: bytes = copy.SerializeToString()
    return content
