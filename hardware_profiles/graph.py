"""What a graph asks of a machine: the kernels ONNX Runtime would launch for it, read off the file.

The file is read as the CPU provider rewrites it, constants folded and kernels fused. So an operator
without an 8-bit kernel shows as it runs: a float kernel between two `quant` ones. On top of that comes
what `folding` knows.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import onnx

from ..errors import GateError
from . import _operators
from .folding import folded
from .kernel import Kernel
from .optimised import Graph, fused
from .profile import Dtype

__all__ = ["Kernel", "dtype", "read"]


def read(model: str | Path | bytes) -> Sequence[Kernel]:
    """The kernels of a file, or of its content, at batch 1, in the order of execution.

    Raises GateError naming the node where an operator is unknown or a shape is missing: what cannot
    be read is never free.
    """
    content = model if isinstance(model, bytes) else Path(model).read_bytes()
    graph = folded(fused(content))
    return [kernel for node in graph.nodes for kernel in _kernels(node, graph)]


def dtype(kernels: Sequence[Kernel]) -> Dtype:
    """The format most multiply-adds are done in: "fp32", "fp16", "int8" or "int4"."""
    macs: Counter[str] = Counter()
    for kernel in kernels:
        macs[kernel.dtype] += kernel.macs
    return cast(Dtype, macs.most_common(1)[0][0]) if macs else "fp32"


def _kernels(node: onnx.NodeProto, graph: Graph) -> list[Kernel]:
    try:
        return _operators.READERS.get(node.op_type, _operators.unknown)(node, graph)
    except NotImplementedError:
        raise GateError(f"no cost is known for operator {node.op_type} of node {node.name!r}") from None
    except (ArithmeticError, LookupError, StopIteration, ValueError) as error:  # no node of its kind
        raise GateError(f"{node.op_type} of node {node.name!r} cannot be read: {error!r}") from error
