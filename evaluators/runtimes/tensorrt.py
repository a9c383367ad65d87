"""TensorRT through ONNX Runtime: engines are built at load, which takes seconds to minutes."""

import onnx
import onnxruntime as ort

from .onnxruntime_cpu import OrtSession, session_options
from .onnxruntime_cuda import OnnxRuntimeCuda, gap


class TensorRt:
    """The TensorRT provider; nodes it does not take go to CUDA, and the share tells."""

    provider = "TensorrtExecutionProvider"

    @staticmethod
    def missing() -> str | None:
        return gap(TensorRt.provider)

    @staticmethod
    def version() -> str:
        return str(ort.__version__)

    @staticmethod
    def load(content: bytes, threads: int) -> OrtSession:
        mine = (TensorRt.provider, precisions(content))
        return OrtSession(content, [mine, OnnxRuntimeCuda.provider], session_options(threads))


def precisions(content: bytes) -> dict[str, str]:
    """Lets TensorRT use the number formats that the file has, and no other: a float32 file stays one."""
    graph = onnx.load_from_string(content).graph
    half = any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.initializer)
    quantized = any(node.op_type == "DequantizeLinear" for node in graph.node)
    return {"trt_fp16_enable": str(int(half)), "trt_int8_enable": str(int(quantized))}
