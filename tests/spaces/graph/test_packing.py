import numpy as np
import onnx
import pytest
from cases import case, run

from pared.spaces.graph.grid import Layout, grid, layouts
from pared.spaces.graph.packing import BASES, pack_, packed, repack_
from pared.spaces.passes import _onnx

SETTINGS = [(levels, block, symmetric) for levels in BASES for block in (0, 8) for symmetric in (True, False)]


def grids(graph: onnx.ModelProto, levels: int, block: int = 0, symmetric: bool = True) -> dict:
    found, layout = _onnx.weights(graph), layouts(graph)
    return {name: grid(_onnx.array(found[name]), layout[name], levels, block, symmetric) for name in found}


def copied(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
@pytest.mark.parametrize(("levels", "block", "symmetric"), SETTINGS)
def test_a_packed_file_computes_exactly_what_the_rounded_weights_compute(
    kind: str, levels: int, block: int, symmetric: bool
) -> None:
    graph, data, _ = case(kind)
    found = grids(graph, levels, block, symmetric)
    small, plain = copied(graph), copied(graph)
    pack_(small, found)
    for tensor in plain.graph.initializer:
        if tensor.name in found:
            tensor.CopyFrom(onnx.numpy_helper.from_array(found[tensor.name].weight, tensor.name))
    onnx.checker.check_model(small)
    assert np.array_equal(run(small, data), run(plain, data))


@pytest.mark.parametrize("levels", BASES)
def test_another_runtime_unpacks_the_same(levels: int) -> None:
    openvino = pytest.importorskip("pared.evaluators.runtimes.openvino")
    graph, data, _ = case("cnn")
    small = copied(graph)
    pack_(small, grids(graph, levels, 8, False))
    session = openvino.OpenVino.load(small.SerializeToString(), 1)
    assert np.allclose(session.run(tuple(data.values())), run(small, data), atol=1e-3)


@pytest.mark.parametrize("levels", BASES)
def test_what_was_packed_is_read_back(levels: int) -> None:
    graph, _, _ = case("transformer")
    small, found = copied(graph), grids(graph, levels, 8, False)
    pack_(small, found)
    for name, back in packed(small).items():
        assert np.array_equal(back.integers, found[name].integers) and np.array_equal(back.weight, found[name].weight)
    halved = {name: grid(each.weight / 2, each.layout, levels, 8, False) for name, each in found.items()}
    repack_(small, halved)
    assert all(np.array_equal(packed(small)[name].weight, halved[name].weight) for name in halved)


@pytest.mark.parametrize(("levels", "share"), [(2, 1 / 32), (3, 1.6 / 32), (4, 2 / 32), (8, 3 / 32), (16, 4 / 32)])
def test_a_large_weight_takes_its_bits_and_little_more(levels: int, share: float) -> None:
    weight = np.random.default_rng(0).normal(size=(128, 64, 3, 3)).astype(np.float32)
    model = onnx.ModelProto()
    pack_(model, {"w": grid(weight, Layout(weight.shape), levels)})
    assert share < model.ByteSize() / weight.nbytes < share + 0.012


def test_a_searched_range_loses_less_than_the_full_one() -> None:
    weight = np.random.default_rng(0).standard_t(3, size=(16, 64)).astype(np.float32)
    full, searched = (grid(weight, Layout(weight.shape), 8, search=search) for search in (False, True))
    assert np.square(searched.weight - weight).sum() < 0.8 * np.square(full.weight - weight).sum()
