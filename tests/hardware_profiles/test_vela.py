"""Vela on real candidates, and on what must be refused."""

import time
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from pared.errors import GateError, MissingExtraError, ProfileError
from pared.evaluators.export import export
from pared.evaluators.tflite import plan as planned
from pared.evaluators.tflite import to_tflite
from pared.evaluators.tflite.quantized import QuantizedGraph
from pared.evaluators.tflite.writer import write
from pared.hardware_profiles import vela
from pared.hardware_profiles.backend import Vela
from pared.hardware_profiles.load import known, load
from pared.spaces.passes.int8_static import Int8Static, Int8StaticPass

pytest.importorskip("ethosu.vela", reason="needs: pip install 'pared[npu]'")
pytest.importorskip("ai_edge_litert", reason="needs: pip install 'pared[npu]'")
PROFILES = [name for name in known() if name.startswith("ethos-")]
U55 = {"accelerator": "ethos-u55-256", "system_config": "Ethos_U55_High_End_Embedded", "memory_mode": "Shared_Sram"}


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU(),
                                  nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


@cache
def resnet8(width: int = 16) -> onnx.ModelProto:
    """The image classification net of MLPerf Tiny (arXiv:2106.07597), untrained; 12.5 million MACs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, 1, 1), nn.ReLU(), Block(width, width, 1), Block(width, 2 * width, 2),
        Block(2 * width, 4 * width, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10)).eval()
    data = np.random.default_rng(0).normal(size=(16, 3, 32, 32)).astype(np.float32)
    step = Int8Static("minmax", "int8", True, "all")
    return Int8StaticPass().apply(step, export(model, (data[:2],)), {"input0": data})


def backend(name: str) -> Vela:
    found = load(name).backend
    assert isinstance(found, Vela)
    return found


@pytest.mark.parametrize("name", PROFILES)
def test_compile_gives_cycles_and_memory_of_a_resnet8(name: str) -> None:
    began = time.perf_counter()
    compiled = vela.compile(to_tflite(resnet8()), backend(name))
    wall_s = time.perf_counter() - began
    print(f"{name}: {wall_s:.2f} s from the QDQ file, {compiled.cycles_total} cycles")
    assert wall_s < 8  # 0.3 s alone; the machine may be shared
    assert 0.02 < compiled.latency_ms < 1.0 and compiled.cycles_total >= compiled.cycles_npu > 0
    assert compiled.sram_bytes > 16 * 1024 and compiled.flash_bytes + compiled.dram_bytes > 60 * 1024
    assert compiled.npu_share == 1.0 and not compiled.cpu_ops
    assert any(name.startswith("Conv2D") for name in compiled.npu_ops)
    assert vela.compile(to_tflite(resnet8()), backend(name)) == compiled


def test_resnet8_costs_about_what_was_measured_for_the_published_file() -> None:
    """design notes: 0.284 ms and 51 KiB on the U55-256 for MLPerf Tiny's own .tflite, default system."""
    compiled = vela.compile(to_tflite(resnet8()), Vela(**U55))
    assert 0.2 < compiled.latency_ms < 0.45
    assert 40 * 1024 < compiled.sram_bytes < 65 * 1024


def test_narrower_and_larger_accelerators_are_faster() -> None:
    half = vela.compile(to_tflite(resnet8(8)), backend("ethos-u55-128"))
    whole = vela.compile(to_tflite(resnet8()), backend("ethos-u55-128"))
    large = vela.compile(to_tflite(resnet8()), backend("ethos-u65-512"))
    assert half.latency_ms < whole.latency_ms and large.latency_ms < whole.latency_ms


def test_each_profile_names_its_part_and_computes_int8() -> None:
    assert PROFILES == ["ethos-u55-128", "ethos-u55-256", "ethos-u65-512", "ethos-u85-512"]
    for name in PROFILES:
        profile = load(name)
        vela.check(backend(name))
        assert profile.evidence == "compiled" and set(profile.precisions) == {"int8"}
        assert backend(name).accelerator == name


def single(code: str, dtype: str, **options: object) -> bytes:
    """A .tflite of one operator on float numbers."""
    plan = planned.Plan(QuantizedGraph(inputs=("x",), outputs={"y": "y"}))
    plan.tensors.update({name: planned.Tensor((1, 8, 8, 4), dtype) for name in "xy"})
    inputs = ["x", "x"]
    if code == "CONV_2D":
        inputs = ["x", plan.constant("w", np.ones((4, 3, 3, 4), np.float32)), plan.constant("b", np.zeros(4, np.float32))]
    plan.emit(code, inputs, "y", **options)
    return write(plan)


def test_a_float_convolution_is_refused_by_name() -> None:
    float_conv = single("CONV_2D", "FLOAT32", padding="SAME", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    with pytest.raises(GateError, match="leaves 'Conv2D y' to the CPU"):
        vela.compile(float_conv, Vela(**U55))


def test_a_low_npu_share_is_refused() -> None:
    with pytest.raises(GateError, match="only 0% of the operators run on the NPU; on the CPU: Add y"):
        vela.compile(single("ADD", "FLOAT32"), Vela(**U55))


def test_a_time_of_zero_is_refused() -> None:
    nothing = vela.Compiled(0.0, 0, 0, 0, 0, 0, ("Add y",), ())
    with pytest.raises(GateError, match="no NPU cycles"):
        vela._check_plausible(nothing)


def test_a_file_that_is_no_tflite_is_refused() -> None:
    with pytest.raises(GateError, match="Vela refuses the file"):
        vela.compile(b"no model at all", Vela(**U55))


@pytest.mark.parametrize(("change", "told"), [
    ({"accelerator": "ethos-u55-512"}, "unknown Ethos-U accelerator 'ethos-u55-512'; did you mean"),
    ({"system_config": "Ethos_U55_High_End"}, "did you mean 'Ethos_U55_High_End_Embedded'.*Ethos_U55_Deep_Embedded"),
    ({"system_config": "Ethos_U85_SYS_DRAM_Mid"}, "system configuration of ethos-u55-256 'Ethos_U85_SYS_DRAM_Mid'"),
    ({"memory_mode": "Shared"}, "unknown memory mode of Ethos_U55_.* 'Shared'.* Known: Shared_Sram, Sram_Only$"),
    ({"memory_mode": "Dedicated_Sram"}, "Ethos_U55_.* 'Dedicated_Sram'.* Known: Shared_Sram, Sram_Only$"),
])
def test_what_vela_does_not_know_is_refused_with_what_it_knows(change: dict[str, str], told: str) -> None:
    with pytest.raises(ProfileError, match=told):
        vela.compile(to_tflite(resnet8()), Vela(**{**U55, **change}))


def test_the_accelerators_are_those_of_the_installed_vela() -> None:
    from ethosu.vela.architecture_features import Accelerator

    assert set(vela.ACCELERATORS) == set(Accelerator.member_list())


def test_it_says_what_to_install_and_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vela.missing() is None and vela.version()[0].isdigit()
    monkeypatch.setattr(vela, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pared\[npu\]'"):
        vela.compile(b"", Vela(**U55))
