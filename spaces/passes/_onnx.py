"""Small helpers over ONNX graphs that several file passes need."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Set
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
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


def check_weights(what: str, before: onnx.ModelProto, after: onnx.ModelProto, least: float = 0.9) -> None:
    """Every weight that is still to be found computes from its constants to about what it was.

    `least` is the cosine to the weight before. Raises GateError: another weight, or wrong scales.
    """
    found = _computed(after)
    for name, tensor in weights(before).items():
        for key in (name, f"{name}_DequantizeLinear_Output"):
            if key in found:
                check_near(what, name, array(tensor), found[key].astype(np.float32), least)


def check_near(what: str, name: str, old: np.ndarray, new: np.ndarray, least: float) -> None:
    """Raises GateError where two weights differ in shape, in direction or by more than a factor of two."""
    if old.shape != new.shape:
        raise GateError(f"{what}: {name} went from {old.shape} to {new.shape}")
    lengths = float(np.linalg.norm(old)), float(np.linalg.norm(new))
    cosine = float((old * new).sum()) / max(1e-12, lengths[0] * lengths[1])
    factor = lengths[1] / max(1e-12, lengths[0])
    if lengths[0] and not (cosine > least and 0.5 < factor < 2):
        raise GateError(f"{what}: {name} is not the weight it was: cosine {cosine:.2f}, norm x{factor:.2f}")


def _computed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """All tensors that follow from constants alone; products in integers dequantized by name."""
    known = {tensor.name: array(tensor) for tensor in model.graph.initializer}
    products = [n.input[1] for n in model.graph.node if n.op_type == "MatMulInteger"]
    for name in [n.removesuffix("_quantized") for n in products]:
        if {f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"} <= known.keys():
            centred = known[f"{name}_quantized"].astype(np.float32) - known[f"{name}_zero_point"]
            known[name] = centred * known[f"{name}_scale"]
    opsets = list(model.opset_import)
    for node in model.graph.node:
        if node.input and all(name in known or not name for name in node.input) and not node.domain:
            run = ReferenceEvaluator(node, opsets={o.domain: o.version for o in opsets})
            values = run.run(None, {name: known[name] for name in node.input if name})
            known |= dict(zip(node.output, values, strict=True))
    return known
