import sys
from collections import Counter
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from pared.errors import GateError
from pared.evaluators.export import export
from pared.hardware_profiles import graph
from pared.hardware_profiles.kernel import Kernel
from pared.spaces.passes.fp16 import Fp16, Fp16Pass
from pared.spaces.passes.int8_dynamic import Int8Dynamic, Int8DynamicPass
from pared.spaces.passes.int8_static import Int8Static, Int8StaticPass
from pared.spaces.passes.weight_only import WeightOnly, WeightOnlyPass

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import blocks
import nets

sys.path.pop(0)


def built(net: nn.Module, *shape: int) -> onnx.ModelProto:
    torch.manual_seed(0)
    return export(net.eval(), (np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32),))


def read(model: onnx.ModelProto) -> list[Kernel]:
    return list(graph.read(model.SerializeToString()))


def macs(kernels: list[Kernel]) -> int:
    return sum(kernel.macs for kernel in kernels)


def node_model(node: onnx.NodeProto, inputs: dict[str, list[int]], weights: dict[str, np.ndarray],
               *others: onnx.NodeProto, domain: str = "") -> bytes:
    info = helper.make_tensor_value_info
    last = (others or (node,))[-1]
    proto = helper.make_graph([node, *others], "g",
                              [info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
                              [info(last.output[0], TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(a, n) for n, a in weights.items()])
    imports = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(proto, opset_imports=imports, ir_version=10).SerializeToString()


class Block(nn.Module):
    """A convolution with SiLU, a squeeze-and-excitation, hard-swish, a residual, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = blocks.conv(3, 16, 3, 2, act=nn.SiLU)
        self.gate = blocks.SqueezeExcite(16, 4, nn.SiLU, nn.Sigmoid)
        self.body = blocks.inverted(16, 32, 16, 3, 1, nn.Hardswish)
        self.head = nn.Sequential(*blocks.head(16, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(self.gate(self.stem(x)))))


@cache
def block() -> onnx.ModelProto:
    return built(Block(), 3, 32, 32)


@cache
def block_int8() -> onnx.ModelProto:
    data = np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32)
    return Int8StaticPass().apply(Int8Static("minmax", "uint8", True, "all"), block(), {"input0": data})


@cache
def tokens() -> onnx.ModelProto:
    return built(nn.Sequential(blocks.encoder(64, 4), blocks.MeanToken(), nn.Linear(64, 10)), 12, 64)


TOKENS_MACS = 12 * 64 * 64 * (3 + 1 + 4 + 4) + 2 * 12 * 12 * 64 + 64 * 10


@pytest.mark.parametrize(("net", "gmacs"), [
    (nets.mobilenet_v2, 0.301),
    pytest.param(nets.efficientnet_b0, 0.386, marks=pytest.mark.slow),
    pytest.param(partial(nets.resnet, (3, 4, 6, 3), 64, True), 4.089, marks=pytest.mark.slow),
    pytest.param(partial(nets.swin, 96, (2, 2, 6, 2), 7), 4.49, marks=pytest.mark.slow),
])
def test_macs_are_the_published_ones(net: nets.Build, gmacs: float) -> None:
    assert macs(read(built(net(), 3, 224, 224))) / 1e9 == pytest.approx(gmacs, rel=0.002)


def test_shifted_windows_lose_no_macs_to_arithmetic_on_shapes() -> None:
    width, patches, window = 96, 16 * 16, 16
    shifted = blocks.ShiftedWindow(width, 3, window=4, shift=2)
    kernels = read(built(nn.Sequential(nn.Conv2d(3, width, 4, 4), blocks.ChannelsLast(), shifted), 3, 64, 64))
    inside = patches * width * width * (3 + 1 + 4 + 4) + 2 * patches * window * width
    assert macs(kernels) == inside + patches * width * 3 * 16


def test_a_convolution_takes_batch_norm_activation_and_residual_in() -> None:
    kernels = read(built(nets.resnet8((8, 8), channels=3), 3, 16, 16))
    assert [k.op for k in kernels] == ["conv", "conv", "conv", "pw", "conv", "conv", "pool", "fc"]
    pixels = 16 * 16
    assert kernels[2] == Kernel("conv", pixels * 8 * 8 * 9, 8 * 8 * 9, 2 * 8 * pixels, 8 * pixels, 8, 8, 3, 1, "fp32")


def test_depthwise_and_grouped_convolutions_are_told_apart() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 3, groups=2), nn.Conv2d(16, 4, 1))
    assert [(k.op, k.groups, k.c_in, k.c_out) for k in read(built(net, 8, 9, 9))] == [
        ("dw", 8, 8, 8), ("gconv", 2, 8, 16), ("pw", 1, 16, 4)]


def test_a_transposed_convolution_counts_each_input_element() -> None:
    [kernel] = read(built(nn.ConvTranspose2d(4, 6, 2, 2), 4, 5, 5))
    assert (kernel.macs, kernel.weights, kernel.out_elems) == (25 * 4 * 6 * 4, 4 * 6 * 4, 6 * 100)


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_a_recurrent_layer_counts_its_weights_once_a_step(kind: str, gates: int) -> None:
    weights = {"w": np.ones((1, gates * 8, 6), np.float32), "r": np.ones((1, gates * 8, 8), np.float32)}
    node = helper.make_node(kind, ["x", "w", "r"], ["y"], hidden_size=8)
    [kernel] = graph.read(node_model(node, {"x": [5, 1, 6]}, weights))
    assert (kernel.macs, kernel.weights) == (5 * gates * 8 * (6 + 8), gates * 8 * (6 + 8))


def test_attention_is_two_products_without_weights() -> None:
    kernels = read(tokens())
    assert macs(kernels) == TOKENS_MACS
    products = [k for k in kernels if k.op == "mm"]
    assert [(k.macs, k.weights) for k in products if not k.weights] == [(12 * 12 * 64, 0)] * 2
    assert sum(k.weights for k in products) == 64 * 64 * (3 + 1 + 4 + 4)
    assert [(k.macs, k.weights) for k in kernels if k.op == "fc"] == [(640, 640)], "one row: the classifier"


def test_the_batch_is_one_whatever_the_file_says() -> None:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(block())
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    assert block().graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert read(fixed) == read(block())


def test_a_path_reads_like_its_content(tmp_path: Path) -> None:
    onnx.save(block(), tmp_path / "m.onnx")
    assert graph.read(tmp_path / "m.onnx") == graph.read(str(tmp_path / "m.onnx")) == read(block())


def optimised(model: onnx.ModelProto, file: Path) -> Counter[str]:
    """Operators of the graph that ONNX Runtime really runs, layouts and all."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(file)
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def test_quant_kernels_are_the_crossings_that_onnx_runtime_leaves(tmp_path: Path) -> None:
    real, kernels = optimised(block_int8(), tmp_path / "o.onnx"), read(block_int8())
    crossings = real["QuantizeLinear"] + real["DequantizeLinear"]
    assert sum(k.op == "quant" for k in kernels) == crossings > 4
    convolutions = [k for k in kernels if k.op in ("conv", "pw", "dw")]
    assert len(convolutions) == real["QLinearConv"] == 6
    assert {k.dtype for k in convolutions} == {"int8"}
    islands = [k for k in kernels if k.op in ("elt", "pool") and k.dtype == "fp32"]
    assert len(islands) == real["HardSigmoid"] + real["ReduceMean"] + real["GlobalAveragePool"] > 2


@pytest.mark.parametrize(("make", "expected"), [
    (block, 5),  # two SiLU, a gate, and a sum with the gated tensor and its Relu
    (lambda: built(nets.resnet8(), 3, 32, 32), 0),
])
def test_elementwise_kernels_are_those_that_onnx_runtime_does_not_fuse(make, expected: int, tmp_path: Path) -> None:
    model = make()
    real = optimised(model, tmp_path / "o.onnx")
    if not real["ReorderInput"] and not real["ReorderOutput"]:
        pytest.skip("this processor has no blocked layout")
    left = sum(real[op] for op in ("Add", "Mul", "Relu", "HardSigmoid", "Sigmoid", "QuickGelu"))
    assert sum(k.op == "elt" for k in read(model)) == left == expected


def test_a_result_that_something_else_reads_is_not_folded_away() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return torch.relu(y + x) - torch.exp(y) + nn.functional.hardswish(self.b(y))

    assert [k.op for k in read(built(Twice(), 4, 8, 8))].count("elt") == 5  # +, relu, exp, -, +


@pytest.mark.parametrize(("make", "dtype"), [
    (lambda: block(), "fp32"),
    (lambda: block_int8(), "int8"),
    (lambda: Fp16Pass().apply(Fp16(), block(), {}), "fp16"),
    (lambda: WeightOnlyPass().apply(WeightOnly(4, 32, True), block(), {}), "fp32"),  # unpacked at load
    (lambda: Int8DynamicPass().apply(Int8Dynamic(True), tokens(), {}), "int8"),
    (lambda: WeightOnlyPass().apply(WeightOnly(4, 32, True), tokens(), {}), "int4"),
    (lambda: WeightOnlyPass().apply(WeightOnly(8, 32, True), tokens(), {}), "int8"),
])
def test_every_form_of_a_file_does_the_same_products(make, dtype: str) -> None:
    kernels = read(make())
    assert graph.dtype(kernels) == dtype
    assert macs(kernels) in (macs(read(block())), TOKENS_MACS)


def test_bytes_follow_the_format() -> None:
    small, wide, half = (next(k for k in read(m) if k.op == "conv") for m in (
        block_int8(), block(), Fp16Pass().apply(Fp16(), block(), {})))
    assert wide.weight_bytes == 2 * half.weight_bytes == 4 * small.weight_bytes == 4 * 3 * 16 * 9
    assert wide.activation_bytes == 2 * half.activation_bytes == 4 * small.activation_bytes


def test_an_unknown_operator_is_named_with_its_node() -> None:
    node = helper.make_node("StringNormalizer", ["x"], ["y"], name="odd")
    model = node_model(node, {"x": [1]}, {})
    proto = onnx.load_from_string(model)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(GateError, match="StringNormalizer of node 'odd'"):
        graph.read(proto.SerializeToString())


def test_an_operator_of_another_domain_is_named_with_its_node() -> None:
    node = helper.make_node("Secret", ["x"], ["y"], name="odd", domain="acme")
    with pytest.raises(GateError, match="Secret of node 'odd'"):
        graph.read(node_model(node, {"x": [1, 4]}, {}, domain="acme"))


def test_a_shape_that_depends_on_the_data_is_refused() -> None:
    found = helper.make_node("NonZero", ["x"], ["i"], name="found")
    moved = helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT)
    with pytest.raises(GateError, match=r"NonZero.*'found'"):
        graph.read(node_model(found, {"x": [1, 4]}, {}, moved))


def test_a_gather_costs_what_it_takes_out_of_its_table() -> None:
    table = np.ones((1000, 8), np.float32)
    [index, gather] = [helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64), helper.make_node("Gather", ["t", "i"], ["y"])]
    [kernel] = graph.read(node_model(index, {"x": [1, 4]}, {"t": table}, gather))
    assert (kernel.op, kernel.in_elems, kernel.out_elems) == ("data", 32, 32)


def test_attention_as_one_operator_counts_both_products() -> None:
    weights = {"w": np.ones((32, 96), np.float32), "b": np.zeros(96, np.float32)}
    node = helper.make_node("Attention", ["x", "w", "b"], ["y"], domain="com.microsoft", num_heads=4)
    projection, scores = graph.read(node_model(node, {"x": [1, 12, 32]}, weights, domain="com.microsoft"))
    assert (projection.op, projection.macs, projection.weights) == ("mm", 12 * 32 * 96, 32 * 96)
    assert (scores.op, scores.macs, scores.weights) == ("mm", 2 * 12 * 12 * 32, 0)
    node = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", num_heads=4)
    inputs = {"q": [1, 5, 32], "k": [1, 12, 32], "v": [1, 12, 32]}
    [scores] = graph.read(node_model(node, inputs, {}, domain="com.microsoft"))
    assert (scores.macs, scores.in_elems, scores.out_elems) == (2 * 5 * 12 * 32, 29 * 32, 5 * 32)


def test_einsum_multiplies_once_for_each_combination_of_indices() -> None:
    node = helper.make_node("Einsum", ["q", "k"], ["y"], equation="bid, bjd -> bij")
    [kernel] = graph.read(node_model(node, {"q": [1, 5, 8], "k": [1, 7, 8]}, {}))
    assert (kernel.op, kernel.macs, kernel.out_elems) == ("mm", 5 * 7 * 8, 35)
