"""Torch module -> one self-contained ONNX file, checked against the module."""

import copy
import re
from collections.abc import Iterator

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn.utils import parametrize

from ..errors import ExportError, GateError
from ..spaces.hooks import step_by_step
from ..spaces.quiet import quiet
from ..spaces.subject import Array
from .runtimes.onnxruntime_cpu import OnnxRuntimeCpu

TOLERANCE = 1e-3  # of the largest output


def export(model: nn.Module, inputs: tuple[Array, ...]) -> onnx.ModelProto:
    """The graph with a dynamic batch where the model allows it, else for one example.

    `inputs` are example inputs, each (batch, ...) with batch >= 2. Raises ExportError naming the
    operator or the line, GateError when file and module disagree.
    """
    model = _plain(model)
    try:
        graph = _exported(model, inputs, dynamic=True)
    except Exception as first:  # the exporter raises many kinds
        try:
            inputs = tuple(array[:1] for array in inputs)
            graph = _exported(model, inputs, dynamic=False)
        except Exception:
            raise ExportError(f"the model does not export: {_reason(first)}") from first
    _check_agreement(model, graph, inputs)
    return graph


def _plain(model: nn.Module) -> nn.Module:
    """The model itself, or a copy in which weights that are computed (masked ones) are constants."""
    if not any(map(parametrize.is_parametrized, model.modules())):
        return model
    plain = copy.deepcopy(model)
    for module in list(filter(parametrize.is_parametrized, plain.modules())):
        values = {name: getattr(module, name).detach() for name in module.parametrizations}  # type: ignore[union-attr]
        del module.parametrizations
        # By hand, as torch's own removal would strip the class that all copies share.
        module.__class__ = type(module).__bases__[0]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value))
    return plain


def _exported(model: nn.Module, inputs: tuple[Array, ...], dynamic: bool) -> onnx.ModelProto:
    batch = torch.export.Dim("batch")
    names = [f"input{i}" for i in range(len(inputs))]
    with quiet():
        program = torch.onnx.export(
            model.eval(),
            tuple(torch.from_numpy(np.array(array)) for array in inputs),
            input_names=names,
            dynamo=True,
            external_data=False,
            dynamic_shapes=tuple({0: batch} for _ in inputs) if dynamic else None,
        )
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    _strip_(graph)
    _name_(graph, model)
    return graph


def _strip_(graph: onnx.ModelProto) -> None:
    """Drops what the exporter notes about its own run: paths of this machine, stack traces."""
    for thing in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info,
                  *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        if hasattr(thing, "metadata_props"):
            del thing.metadata_props[:]
        if hasattr(thing, "doc_string"):
            thing.doc_string = ""


def _name_(graph: onnx.ModelProto, model: nn.Module) -> None:
    """Gives weights that the exporter turned over, and so made nameless, the name of their parameter."""
    names = {tensor.name for tensor in graph.graph.initializer}
    turned = {_content(p.detach().numpy().T): name for name, p in model.named_parameters()
              if p.ndim == 2 and name not in names}
    known = {tensor.name: turned.pop(content) for tensor in graph.graph.initializer
             if len(tensor.dims) == 2 and (content := _content(onnx.numpy_helper.to_array(tensor))) in turned}
    for tensor in graph.graph.initializer:
        tensor.name = known.get(tensor.name, tensor.name)
    for node in graph.graph.node:
        node.input[:] = [known.get(name, name) for name in node.input]


def _content(array: Array) -> tuple[tuple[int, ...], bytes]:
    return array.shape, np.ascontiguousarray(array).tobytes()


def _check_agreement(model: nn.Module, graph: onnx.ModelProto, inputs: tuple[Array, ...]) -> None:
    with torch.inference_mode(), step_by_step():  # as the file is: the fused kernel zeroes padded positions
        result = model(*(torch.from_numpy(np.array(array)) for array in inputs))
    expected = (result if isinstance(result, torch.Tensor) else result[0]).numpy()
    got = OnnxRuntimeCpu.load(graph.SerializeToString(), threads=1).run(inputs)
    worst = float(np.abs(expected - got).max())
    if not worst <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise GateError(f"the exported file differs from the model by {worst:.3g}")


def _reason(error: BaseException) -> str:
    """The operator and the line of the user's code, dug out of the exporter's long report."""
    chain = list(_causes(error))
    report = "\n".join(map(str, chain))
    operator = re.search(r"No (?:ONNX function found|decompositions registered) for [^\n]*", report)
    lines = [row for row in re.findall(r'File "([^"]+)", line (\d+), in \w+\n\s+(.+)', report)
             if "site-packages" not in row[0]]
    first = next((line.strip() for line in str(chain[-1]).splitlines() if line.strip()), "")
    what = operator[0] if operator else f"{type(chain[-1]).__name__}: {first[:300]}"
    return what + "".join(f" at {file}:{line}, {code.strip()}" for file, line, code in lines[-1:])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
