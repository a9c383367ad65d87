"""Rounding with error compensation: what one weight loses, the others of its output make good.

GPTQ (Frantar et al. 2023, arXiv:2210.17323), layer by layer in the order of execution, each layer
shown the inputs that the layers rounded before it give. Convolutions are matrix products over patches.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from .grid import Grid
from .trainable import Trainable

DAMPING = 0.01  # of the mean curvature, as in the paper
ROWS = 16_384  # patches that the curvature is taken from: more change nothing


def compensated(
    model: onnx.ModelProto, grids: Mapping[str, Grid], inputs: tuple[Tensor, ...]
) -> dict[str, Grid]:
    """The same grids with other integers. `inputs` (n, ...) are calibration examples, in one batch.

    Transposed convolutions keep their integers. Raises GateError where the graph cannot be run.
    """
    done = dict(grids)

    def visit(name: str, node: onnx.NodeProto, x: Tensor) -> Tensor | None:
        if name not in grids:
            return None
        if node.op_type != "ConvTranspose":
            done[name] = _rounded(grids[name], _weight(model, name), _patches(node, x, grids[name]))
        return torch.from_numpy(np.ascontiguousarray(done[name].weight))

    with torch.inference_mode():
        Trainable(model).run(inputs, visit)
    return done


def _weight(model: onnx.ModelProto, name: str) -> np.ndarray:
    return onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def _patches(node: onnx.NodeProto, x: Tensor, grid: Grid) -> Tensor:
    """What is multiplied with the rows of the weight: (convolution groups, samples, inputs of a row)."""
    if node.op_type != "Conv":
        return _some(x.reshape(1, -1, x.shape[-1]))
    a = {at.name: onnx.helper.get_attribute_value(at) for at in node.attribute}
    kernel, spatial = grid.layout.shape[2:], x.ndim - 2
    if spatial == 1:
        x, kernel = x[:, :, None], (1, *kernel)
    pads, strides, dilations = (
        (*([fill] * (2 - spatial)), *a.get(key, [fill] * spatial)[:spatial])
        for key, fill in (("pads", 0), ("strides", 1), ("dilations", 1)))
    groups = a.get("group", 1)
    columns = F.unfold(x, kernel, dilations, pads, strides)  # (n, channels * kernel, positions)
    columns = columns.reshape(len(x), groups, -1, columns.shape[-1])
    return _some(columns.permute(1, 0, 3, 2).reshape(groups, -1, columns.shape[2]))


def _some(samples: Tensor) -> Tensor:
    step = max(1, samples.shape[1] // ROWS)
    return samples[:, ::step]


def _rounded(grid: Grid, weight: np.ndarray, samples: Tensor) -> Grid:
    """The grid with its integers chosen column by column, the most curved first."""
    groups = len(samples)
    matrix = torch.from_numpy(np.ascontiguousarray(grid.layout.matrix(weight.astype(np.float32))))
    rows, columns = matrix.shape
    wide = (rows, columns // grid.scale.shape[1])
    scale = torch.from_numpy(np.repeat(np.broadcast_to(grid.scale, (rows, *grid.scale.shape[1:]))[..., 0],
                                       wide[1], 1))
    zero = torch.from_numpy(np.repeat(np.broadcast_to(grid.zero, (rows, *grid.scale.shape[1:]))[..., 0],
                                      wide[1], 1))
    w, s, z = (t.reshape(groups, rows // groups, columns) for t in (matrix, scale, zero))
    curvature = samples.transpose(1, 2) @ samples / samples.shape[1]  # (groups, columns, columns)
    order = curvature.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True)
    inverse = _inverse(_permuted(curvature, order))
    w, s, z = (torch.gather(t, 2, order[:, None].expand_as(t)).clone() for t in (w, s, z))
    integers = torch.empty_like(w)
    for i in range(columns):
        column, step = w[:, :, i], s[:, :, i]
        integers[:, :, i] = torch.clamp((column / step + z[:, :, i]).round(), grid.lowest, grid.levels - 1)
        error = (column - (integers[:, :, i] - z[:, :, i]) * step) / inverse[:, i, i, None]
        w[:, :, i:] -= error[:, :, None] * inverse[:, None, i, i:]
    back = torch.empty_like(integers).scatter_(2, order[:, None].expand_as(integers), integers)
    return replace(grid, integers=back.reshape(grid.integers.shape).numpy().astype(np.uint8))


def _permuted(curvature: Tensor, order: Tensor) -> Tensor:
    rows = torch.gather(curvature, 1, order[:, :, None].expand_as(curvature))
    return torch.gather(rows, 2, order[:, None, :].expand_as(curvature))


def _inverse(curvature: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse, (groups, columns, columns)."""
    curvature = curvature.double()
    mean = curvature.diagonal(dim1=1, dim2=2).mean(1)
    damping = (DAMPING * mean).clamp(min=1e-12)[:, None, None] * torch.eye(curvature.shape[-1])
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(curvature + damping))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()
