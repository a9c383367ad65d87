"""Small helpers over ONNX graphs that several file passes need."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Set
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization.shape_inference import quant_pre_process

from ...errors import GateError
from ..graph.weighted import WEIGHTED, array, weights
from ..keep import kept as is_kept

__all__ = ["WEIGHTED", "array", "weights"]


def rewritten(model: onnx.ModelProto, by: Callable[[str, str], object]) -> onnx.ModelProto:
    """The model after a tool that reads one file and writes another."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = str(Path(folder) / "in.onnx"), str(Path(folder) / "out.onnx")
        onnx.save(model, before)
        by(before, after)
        return onnx.load(after)


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Batch norms folded, constants folded, shapes inferred: what the quantizer expects."""
    return rewritten(model, lambda i, o: quant_pre_process(i, o, skip_symbolic_shape=True))


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each operator."""
    return Counter(node.op_type for node in model.graph.node)


def kept(model: onnx.ModelProto, keep: Iterable[str]) -> frozenset[str]:
    """Names of the weights that lie in the kept modules; `keep` are paths of modules."""
    names = tuple(keep)
    return frozenset(name for name in weights(model) if is_kept(name, names))


def nodes_of(model: onnx.ModelProto, names: Set[str]) -> list[str]:
    """Names of the weighted nodes that read these weights."""
    return [node.name for node in model.graph.node
            if node.op_type in WEIGHTED and names & set(node.input[1:2])]


def weight_shares(model: onnx.ModelProto) -> dict[str, float]:
    """Operator -> its share of all constant weights, 0-1."""
    sizes: Counter[str] = Counter()
    constants = {t.name: int(np.prod(t.dims)) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in constants:
            sizes[node.op_type] += constants[node.input[1]]
    total = max(1, sum(constants.values()))
    return {name: size / total for name, size in sizes.items()}


def check_smaller(what: str, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Raises GateError unless the file shrank."""
    was, now = before.ByteSize(), after.ByteSize()
    if now >= was:
        raise GateError(f"{what} was to shrink the file; it went from {was} to {now} bytes")


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """The only batch size that the graph takes, None where any will do."""
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    return dim.dim_value if dim.HasField("dim_value") else None
