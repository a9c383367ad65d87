"""Predicted latencies: what they depend on, how far they say they are off, and what they refuse."""

import math

import pytest
from kernels import conv, depthwise, fc, narrow, nets

from pared.errors import ProfileError
from pared.hardware_profiles.graph import Kernel
from pared.hardware_profiles.load import known, load
from pared.hardware_profiles.predict import predict

PI = load("rpi4-ort-cpu")


def analytic() -> list[str]:
    return [name for name in known() if load(name).backend.kind == "analytic"]


@pytest.mark.parametrize("name", analytic())
def test_every_predicted_profile_puts_a_time_and_a_wide_interval_on_a_net(name: str) -> None:
    profile = load(name)
    for dtype in profile.precisions:
        found = predict(narrow(1.0), profile, dtype)
        assert 0 < found.low_ms < found.latency_ms < found.high_ms < math.inf
        assert found.high_ms / found.latency_ms > 2.99  # nothing was measured: a factor of three at least


def test_more_work_takes_longer() -> None:
    times = [predict(narrow(width), PI).latency_ms for width in (0.25, 0.5, 1.0)]
    assert times == sorted(times)
    assert predict(narrow(1.0) * 2, PI).latency_ms > times[-1]


def test_a_depthwise_mac_costs_more_than_a_dense_one() -> None:
    dense, apart = conv(64, 64, 28), depthwise(576, 28)
    per_mac = [predict([k], PI).latency_ms / k.macs for k in (dense, apart)]
    assert per_mac[1] > 2 * per_mac[0]


def test_weights_beyond_the_on_chip_memory_are_streamed() -> None:
    """Edge TPU: 8 MB of weights at 0.3 GB/s are 27 ms; the MACs are the same."""
    tpu = load("edge-tpu-usb")
    inside, beyond = [fc(1024, 1024)] * 4, [fc(1024, 1024)] * 16
    times = [predict(net, tpu, "int8").latency_ms for net in (inside, beyond)]
    assert times[1] > 6 * times[0]


def test_predict_refuses_a_format_that_the_device_does_not_run() -> None:
    with pytest.raises(ProfileError, match="does not run fp32 files; its precisions: int8"):
        predict(narrow(1.0), load("stm32l4r5-cube-ai"), "fp32")
    with pytest.raises(ProfileError, match="no kernels"):
        predict([], PI)


def test_kernels_of_nine_columns_are_enough() -> None:
    assert predict([Kernel("conv", 10**7, 9216, 50176, 50176, 32, 32, 3, 1)], PI).latency_ms > 0
    assert len({predict(net, PI).latency_ms for net in nets()}) == len(nets())
