"""ONNX Runtime on an NVIDIA GPU, through its CUDA provider."""

import ctypes

import onnxruntime as ort

from .onnxruntime_cpu import OrtSession, session_options


class OnnxRuntimeCuda:
    """The CUDA provider. It leaves shape arithmetic to the CPU by design, hence the share below 1."""

    provider = "CUDAExecutionProvider"

    @staticmethod
    def missing() -> str | None:
        return gap(OnnxRuntimeCuda.provider)

    @staticmethod
    def version() -> str:
        return str(ort.__version__)

    @staticmethod
    def load(content: bytes, threads: int) -> OrtSession:
        return OrtSession(content, [OnnxRuntimeCuda.provider], session_options(threads))


def gap(provider: str) -> str | None:
    """What stands between this machine and a provider for NVIDIA GPUs."""
    if not gpus():
        return "no NVIDIA GPU here (the CUDA driver lists none)"
    if provider not in ort.get_available_providers():
        return f"{provider} is not in this ONNX Runtime: pip install onnxruntime-gpu in place of onnxruntime"
    return None


def gpus() -> int:
    """How many GPUs the CUDA driver lists; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    works = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if works else 0
