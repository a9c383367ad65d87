"""The .tflite computes what the QDQ file computes: real nets on real images, and one small net an operator."""

import importlib.util
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from helpers import ROOT, load_tiny
from torch import Tensor, nn
from torch.nn import functional as F

from pared.errors import ExportError, MissingExtraError
from pared.evaluators.accuracy import scores
from pared.evaluators.export import export
from pared.evaluators.runtimes.litert import LiteRt, LiteRtSession, _real
from pared.evaluators.runtimes.onnxruntime_cpu import OnnxRuntimeCpu
from pared.evaluators.tflite import convert, to_tflite
from pared.spaces.passes.int8_static import Int8Static, Int8StaticPass

pytestmark = pytest.mark.slow

pytest.importorskip("ai_edge_litert", reason="needs: pip install 'pared[npu]'")
DEMO = ROOT / "examples" / "fashion_mnist"
FLAVOURS = [pytest.param(kind, activations, per_channel,
                         marks=() if (activations == "uint8") == per_channel else pytest.mark.slow)
            for kind in ("tiny", "resnet8", "mobilenet") for activations in ("uint8", "int8")
            for per_channel in (True, False)]


def quantized(graph: onnx.ModelProto, data: np.ndarray, activations: str = "int8", per_channel: bool = True,
              operators: str = "all") -> onnx.ModelProto:
    step = Int8Static("minmax", activations, per_channel, operators)
    return Int8StaticPass().apply(step, graph, {"input0": data})


def int8(model: nn.Module, data: np.ndarray, operators: str = "all") -> onnx.ModelProto:
    return quantized(export(model.eval(), (data[:2],)), data, operators=operators)


class Inverted(nn.Module):
    """The block of MobileNetV2 (arXiv:1801.04381)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide, self.residual = 4 * inputs, stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet() -> nn.Module:
    stem = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    blocks = [Inverted(16, 16, 1), Inverted(16, 24, 2), Inverted(24, 24, 1)]
    return nn.Sequential(*stem, *blocks, nn.Conv2d(24, 64, 1), nn.BatchNorm2d(64), nn.ReLU6(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def trained(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> nn.Module:
    """Far enough that the outputs mean something: 100 steps."""
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(model.train().parameters(), 5e-3)
    for i in range(100):
        rows = slice(i * 32 % 3200, i * 32 % 3200 + 32)
        optimiser.zero_grad()
        F.cross_entropy(model(torch.from_numpy(images[rows])), torch.from_numpy(labels[rows])).backward()
        optimiser.step()
    return model.eval()


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMO / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def real_file(kind: str, activations: str = "int8", per_channel: bool = True) -> onnx.ModelProto:
    return quantized(exported(kind), real(kind)[1], activations, per_channel)


@cache
def exported(kind: str) -> onnx.ModelProto:
    model, images, _ = real(kind)
    return export(model.eval(), (images[:2],))


@cache
def real(kind: str) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    """Model, calibration images, other images."""
    if kind == "tiny":
        subject = load_tiny().subject()
        return subject.model(), subject.split("calibration").inputs[0][:64], subject.split("validation").inputs[0]
    with np.load(DEMO / "fashion_mnist_20k.npz") as data:
        images = ((data["x_train"][:4000].astype(np.float32) / 255 - 0.286) / 0.353)[:, None]
        labels = data["y_train"][:4000].astype(np.int64)
    if kind == "resnet8":
        model = loaded("model").ResNet8()
        with np.load(DEMO / "weights.npz") as stored:
            model.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files})
    else:
        torch.manual_seed(0)
        model = trained(mobilenet(), images, labels)
    return model, images[:64], images[3500:]


def both(file: onnx.ModelProto, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Outputs of the QDQ file, of the .tflite, and one step of the output's scale."""
    session = LiteRt.load(to_tflite(file), 1)
    want = OnnxRuntimeCpu.load(file.SerializeToString(), 1).run((images,))
    return want, session.run((images,)), step_of(session)


def step_of(session: LiteRtSession) -> float:
    return float(session._output["quantization"][0])


@pytest.mark.parametrize(("kind", "activations", "per_channel"), FLAVOURS)
def test_tflite_agrees_with_the_qdq_file_on_real_images(kind: str, activations: str, per_channel: bool) -> None:
    want, got, step = both(real_file(kind, activations, per_channel), real(kind)[2][:256])
    assert got.shape == want.shape
    steps = np.abs(got - want) / step
    # The two runtimes round a requantised value that lies halfway to either side.
    assert steps.max() < 2.01 and (steps > 0.5).mean() < 0.15
    assert (got.argmax(1) == want.argmax(1)).mean() >= 0.99


def test_tflite_is_scored_for_its_own_accuracy(subject: Any) -> None:
    file, split = real_file("tiny"), subject.split("validation")
    whole = scores(OnnxRuntimeCpu.load(file.SerializeToString(), 1), split, subject).mean()
    mine = scores(LiteRt.load(to_tflite(file), 1), split, subject).mean()
    assert mine == pytest.approx(whole, abs=0.005) and mine > 0.7


def test_weights_and_scales_are_those_of_the_qdq_file() -> None:
    file = real_file("tiny", "uint8")
    session = LiteRt.load(to_tflite(file), 1)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in file.graph.initializer}
    assert session._inputs[0]["quantization"] == (float(stored["input0_scale"]),
                                                  int(stored["input0_zero_point"]) - 128)
    assert session._output["quantization"] == (float(stored["linear_scale"]),
                                               int(stored["linear_zero_point"]) - 128)
    scales = [d["quantization_parameters"]["scales"] for d in session._interpreter.get_tensor_details()]
    assert any(np.array_equal(scale, stored["inner.weight_scale"]) for scale in scales)


def test_the_same_file_always_gives_the_same_bytes() -> None:
    file = real_file("tiny")
    assert to_tflite(file) == to_tflite(file.SerializeToString())


# One small net for each operator, and each use of it, on 3 x 16 x 16 maps.

class Of(nn.Module):
    """`function` of the input and of these layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel, padding=options.pop("padding", kernel // 2), **options)


def head(width: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


NETS: dict[str, Callable[[], nn.Module]] = {
    "flatten into columns": lambda: nn.Sequential(conv(3, 8), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10)),
    "flatten, then relu": lambda: Of(lambda x, c, f: f(c(x).flatten(1).relu()), conv(3, 8), nn.Linear(2048, 10)),
    "flatten to the output": lambda: nn.Sequential(conv(3, 8, stride=3), nn.Flatten()),
    "padded max pool": lambda: nn.Sequential(conv(3, 8), nn.ReLU(), nn.MaxPool2d(3, 2, 1), head(8)),
    "padded max pool of signed": lambda: nn.Sequential(conv(3, 8), nn.MaxPool2d(3, 2, 1), head(8)),
    "average pool": lambda: nn.Sequential(conv(3, 8), nn.AvgPool2d(2)),
    "average pool, margin counted": lambda: nn.Sequential(conv(3, 8), nn.AvgPool2d(3, 2, 1)),
    "average pool, margin left out": lambda: nn.Sequential(
        conv(3, 8), nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
    "relu6": lambda: nn.Sequential(conv(3, 8), nn.ReLU6(), conv(8, 4)),
    "hard tanh": lambda: nn.Sequential(conv(3, 8), nn.Hardtanh(), conv(8, 4)),
    "hard swish": lambda: nn.Sequential(conv(3, 8), nn.Hardswish(), conv(8, 4)),
    "hard sigmoid": lambda: Of(lambda x, a, b: a(x) * F.hardsigmoid(b(x)), conv(3, 8), conv(3, 8)),
    "silu": lambda: nn.Sequential(conv(3, 8), nn.SiLU(), conv(8, 4)),
    "tanh": lambda: nn.Sequential(conv(3, 8), nn.Tanh(), conv(8, 4)),
    "leaky relu": lambda: nn.Sequential(conv(3, 8), nn.LeakyReLU(0.1), conv(8, 4)),
    "softmax": lambda: nn.Sequential(conv(3, 8), head(8), nn.Softmax(-1)),
    "squeeze and excite": lambda: Of(
        lambda x, a, b: (lambda y: y * torch.sigmoid(b(y.mean((2, 3), keepdim=True))))(a(x)), conv(3, 8), conv(8, 8, 1)),
    "concat": lambda: Of(lambda x, a, b, c: c(torch.cat([a(x), b(x).relu()], 1)), conv(3, 8), conv(3, 4), conv(12, 4)),
    "grouped": lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12, groups=4), head(12)),
    "depth multiplier": lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 16, groups=8, stride=2), head(16)),
    "dilated": lambda: nn.Sequential(conv(3, 8, padding=2, dilation=2), head(8)),
    "odd pad": lambda: nn.Sequential(conv(3, 8), nn.ZeroPad2d((1, 2, 0, 1)), conv(8, 8, padding=0), head(8)),
    "strides": lambda: nn.Sequential(conv(3, 8, stride=2), nn.ReLU(), conv(8, 8, 5, stride=2), conv(8, 8, 1, stride=2)),
    "shuffle": lambda: Of(lambda x, a, b: b(a(x).reshape(-1, 2, 4, 16, 16).transpose(1, 2).reshape(-1, 8, 16, 16)),
                          conv(3, 8), conv(8, 4)),
    "permute": lambda: Of(lambda x, a: a(x).permute(0, 2, 3, 1), conv(3, 8)),
    "nearest": lambda: nn.Sequential(conv(3, 8, stride=2), nn.Upsample(scale_factor=2), conv(8, 4)),
    "bilinear": lambda: nn.Sequential(conv(3, 8, stride=2), nn.Upsample(scale_factor=2, mode="bilinear"), conv(8, 4)),
    "subtract": lambda: Of(lambda x, a, b, c: c(a(x) - b(x)), conv(3, 8), conv(3, 8), conv(8, 4)),
    "constants": lambda: Of(lambda x, a: a(x) * 2.5 + torch.arange(8.0)[None, :, None, None], conv(3, 8)),
    "residual": lambda: Of(lambda x, a, b: b(F.relu6(a(x) + a(x).relu())), conv(3, 8), head(8)),
    "perceptron": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10)),
    "split": lambda: Of(lambda x, a, b, c: b(a(x).chunk(2, 1)[0]) + c(a(x).chunk(2, 1)[1]),
                        conv(3, 8), conv(4, 4), conv(4, 4)),
    "mean at the end": lambda: nn.Sequential(
        conv(3, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "unsqueeze": lambda: Of(lambda x, a, b: b(a(x).mean((2, 3)))[:, :, None, None] * a(x), conv(3, 8), nn.Linear(8, 8)),
}


@cache
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, 3, 16, 16)).astype(np.float32)


def spread(model: nn.Module) -> nn.Module:
    """Weights large enough for the outputs to use the 8 bits."""
    torch.manual_seed(0)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    return model


@cache
def side_by_side() -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """All nets as branches of one file, exported and quantized once: name -> as `both`."""
    file = int8(spread(Of(lambda x, *nets: tuple(net(x) for net in nets), *(make() for make in NETS.values()))),
                noise())
    want = ort.InferenceSession(file.SerializeToString()).run(None, {"input0": noise()})
    session = LiteRt.load(to_tflite(file), 1)
    details, parts = session._interpreter.get_output_details(), []
    for row in noise():
        session.run((row[None],))
        parts.append([session._interpreter.get_tensor(detail["index"]) for detail in details])
    got = [_real(np.concatenate(rows), d) for rows, d in zip(zip(*parts, strict=True), details, strict=True)]
    steps = [float(detail["quantization"][0]) for detail in details]
    return dict(zip(NETS, zip(want, got, steps, strict=True), strict=True))


@pytest.mark.parametrize("name", NETS)
def test_operator_agrees_with_the_qdq_file(name: str) -> None:
    want, got, step = side_by_side()[name]
    assert got.shape == want.shape
    assert (np.abs(got - want) / step).max() < 2.01
    assert np.abs(got).max() > 20 * step


REFUSED = {
    "Gelu": lambda: nn.Sequential(conv(3, 8), nn.GELU(), head(8)),
    "LayerNormalization": lambda: Of(lambda x, a, b: b(a(x).flatten(2)), conv(3, 8), nn.LayerNorm(256)),
    "ConvTranspose": lambda: nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 4, 2, 2)),
    "MaxPool": lambda: nn.Sequential(conv(3, 8), nn.MaxPool2d(3, 2, ceil_mode=True)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_an_unknown_operator_is_named_with_its_node(name: str) -> None:
    with pytest.raises(ExportError, match=rf"^{name} '.+'.* has no int8 TFLite counterpart here$"):
        to_tflite(int8(REFUSED[name](), noise()))


def by_hand(weight_zero: int | None = None, size: int | str = 4) -> onnx.ModelProto:
    """Quantized in uint8 without zero points; one convolution; its result quantized twice, in two scales."""
    make, number = onnx.helper.make_node, onnx.numpy_helper.from_array
    weights = np.random.default_rng(0).integers(-127, 127, (2, 1, 3, 3)).astype(np.int8)
    weight_inputs = ["w8", "w_scale"] + (["w_zero"] if weight_zero is not None else [])
    nodes = [
        make("QuantizeLinear", ["x", "s1"], ["x8"]), make("DequantizeLinear", ["x8", "s1"], ["xd"]),
        make("DequantizeLinear", weight_inputs, ["w"]), make("Conv", ["xd", "w"], ["c"], "only_conv"),
        make("QuantizeLinear", ["c", "s2", "z2"], ["c8"]), make("DequantizeLinear", ["c8", "s2", "z2"], ["cd"]),
        make("QuantizeLinear", ["cd", "s3", "z2"], ["e8"]), make("DequantizeLinear", ["e8", "s3", "z2"], ["y"])]
    constants = {"s1": np.float32(0.01), "s2": np.float32(0.05), "s3": np.float32(0.08), "z2": np.uint8(120),
                 "w8": weights, "w_scale": np.float32(0.02), "w_zero": np.int8(weight_zero or 0)}
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "hand", [value("x", 1, ["batch", 1, size, size])], [value("y", 1, ["batch", 2, None, None])],
        [number(np.asarray(array), name) for name, array in constants.items()])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_scales_without_zero_points_and_a_change_of_scale_are_read() -> None:
    images = np.random.default_rng(0).uniform(0, 2.5, (64, 1, 4, 4)).astype(np.float32)
    want, got, step = both(by_hand(), images)
    assert step == pytest.approx(0.08) and (np.abs(got - want) / step).max() < 1.01
    assert np.abs(got).max() > 20 * step


def test_asymmetric_weights_and_open_sizes_are_refused() -> None:
    with pytest.raises(ExportError, match="Conv 'only_conv' has asymmetric weights"):
        to_tflite(by_hand(weight_zero=3))
    with pytest.raises(ExportError, match="no shape is known for tensor 'x'"):
        to_tflite(by_hand(size="open"))


def test_a_float_file_is_refused() -> None:
    with pytest.raises(ExportError, match="^the file is not int8: it holds no QuantizeLinear"):
        to_tflite(exported("tiny"))


@pytest.mark.parametrize("kept", ["node_Conv_21", "node_linear"])
def test_a_file_whose_first_or_last_layer_is_float_is_refused(kept: str) -> None:
    model, file = real("tiny")[0], onnx.ModelProto()
    file.CopyFrom(real_file("tiny"))
    node = next(node for node in file.graph.node if node.name == kept)
    weight = node.input[1].removesuffix("_DequantizeLinear_Output")
    source = next(n for n in file.graph.node if n.output[0] == node.input[1])
    file.graph.node.remove(source)
    file.graph.initializer.append(onnx.numpy_helper.from_array(
        dict(model.named_parameters())[weight].detach().numpy(), node.input[1]))
    with pytest.raises(ExportError, match=f"^the file is not int8: {node.op_type} '{kept}'"):
        to_tflite(file)


def test_a_float_operator_between_quantized_ones_is_refused() -> None:
    net = nn.Sequential(conv(3, 8), nn.SiLU(), head(8))
    with pytest.raises(ExportError, match="the file is not int8: Sigmoid '.+' computes in float"):
        to_tflite(int8(net, noise(), operators="weighted"))


def test_only_weighted_operators_quantized_converts_where_every_scale_is_known() -> None:
    _, calibration, images = real("tiny")
    want, got, step = both(quantized(exported("tiny"), calibration, operators="weighted"), images[:256])
    assert (np.abs(got - want) / step).max() < 3.01  # ONNX Runtime merges pairs of scales
    assert (got.argmax(1) == want.argmax(1)).mean() >= 0.99


def test_what_to_install_is_told_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "missing", lambda: "pip install 'pared[npu]'")
    with pytest.raises(MissingExtraError, match=r"pip install 'pared\[npu\]'"):
        to_tflite(b"")
