import numpy as np
import onnx
import pytest
from cases import case, run

from pared.errors import GateError
from pared.spaces.graph import nbits
from pared.spaces.graph.packing import packed
from pared.spaces.passes import FILE, _onnx
from pared.spaces.passes.binary import Binary, inner
from pared.spaces.passes.weight_only import WeightOnly, written

weight_only = FILE["weight_only"]


def error(graph: onnx.ModelProto, data: dict[str, np.ndarray], step: object) -> float:
    want, got = run(graph, data), run(weight_only.apply(step, graph, data), data)
    return float(np.linalg.norm(want - got) / np.linalg.norm(want))


@pytest.mark.parametrize(("kind", "share"), [("cnn", 0.6), ("transformer", 0.8)])  # trained; random weights
@pytest.mark.parametrize("bits", [4, 3, 2])
def test_error_compensation_lowers_the_error_of_the_outputs(kind: str, share: float, bits: int) -> None:
    graph, data, _ = case(kind)
    plain, better = (error(graph, data, WeightOnly(bits, 32, True, method)) for method in ("rtn", "gptq"))
    assert better < share * plain


def test_error_compensation_asks_for_calibration_data() -> None:
    graph, _, _ = case("cnn")
    with pytest.raises(GateError, match="calibration data"):
        weight_only.apply(WeightOnly(4, 32, True, "gptq"), graph, {})


def test_matrix_products_get_a_kernel_at_4_and_8_bits_and_are_packed_at_others() -> None:
    graph, data, _ = case("transformer")
    for bits, kernels in ((8, 4), (4, 4), (3, 0), (2, 0)):
        after = weight_only.apply(WeightOnly(bits, 32, True), graph, data)
        assert len(nbits.read(after)) == kernels and len(packed(after)) == 5 - kernels


@pytest.mark.parametrize("sabotage", ["other weight", "wrong scale", "fewer levels"])
def test_a_sabotaged_grid_is_caught(sabotage: str) -> None:
    graph, data, _ = case("cnn")
    step = WeightOnly(4, 32, True)
    grids = packed(weight_only.apply(step, graph, data))
    name, grid = max(grids.items(), key=lambda item: item[1].integers.size)
    changed = {"other weight": {"integers": grid.integers[::-1].copy()}, "wrong scale": {"scale": 3 * grid.scale},
               "fewer levels": {"levels": 8, "integers": grid.integers // 2}}[sabotage]
    from dataclasses import replace

    after = written(graph, {**grids, name: replace(grid, **changed)})
    with pytest.raises(GateError, match=name.replace(".", r"\.")):
        weight_only.check(step, graph, after)


@pytest.mark.parametrize("values", ["binary", "ternary"])
def test_binary_weights_have_so_many_values_and_leave_the_first_and_last_layer(values: str) -> None:
    graph, data, _ = case("transformer")
    after = FILE["binary"].apply(Binary(values), graph, data)
    FILE["binary"].check(Binary(values), graph, after)
    found, names = packed(after), list(_onnx.weights(graph))
    assert set(found) == set(inner(graph)) and not {names[0], names[-1]} & set(found)
    for grid in found.values():
        assert all(len(np.unique(row)) <= {"binary": 2, "ternary": 3}[values] for row in grid.integers)
