"""Valid inputs of every kind: what mutations start from."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from place import SEEDS

from pared.hardware_profiles.features import NAMES
from pared.hardware_profiles.load import CATALOG
from pared.search.cache import packed
from pared.search.starter import RUN_FILE

RUN = SEEDS / "run"
FLOAT = TensorProto.FLOAT


def _model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: tuple = (1, 1, 4, 4)) -> bytes:
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()])
    return helper.make_model(graph, opset_imports=domains, ir_version=9).SerializeToString()


def _w(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return (np.arange(int(np.prod(shape))).reshape(shape) % 5 - 2).astype(dtype)


def convolutional() -> bytes:
    n = helper.make_node
    return _model([
        n("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), n("Relu", ["c"], ["r"]),
        n("GlobalAveragePool", ["r"], ["p"]), n("Flatten", ["p"], ["f"]),
        n("Gemm", ["f", "g", "h"], ["y"], transB=1),
    ], {"w": _w(2, 1, 3, 3), "b": _w(2), "g": _w(3, 2), "h": _w(3)})


def integer() -> bytes:
    n = helper.make_node
    return _model([
        n("QuantizeLinear", ["x", "s", "z"], ["q"]), n("DequantizeLinear", ["q", "s", "z"], ["d"]),
        n("DequantizeLinear", ["w", "s", "z"], ["v"]), n("Conv", ["d", "v"], ["c"], kernel_shape=[1, 1]),
        n("QuantizeLinear", ["c", "s", "z"], ["o"]), n("DequantizeLinear", ["o", "s", "z"], ["y"]),
    ], {"w": _w(2, 1, 1, 1, dtype=np.int8), "s": np.float32(0.1), "z": np.int8(0)})


def products() -> bytes:
    n = helper.make_node
    return _model([
        n("MatMul", ["x", "w"], ["m"]), n("Einsum", ["m", "m"], ["e"], equation="abij,abjk->abik"),
        n("LayerNormalization", ["e", "s"], ["l"]), n("Softmax", ["l"], ["t"]),
        n("Reshape", ["t", "k"], ["u"]), n("LSTM", ["u", "a", "r"], ["y"], hidden_size=2),
    ], {"w": _w(4, 4), "s": _w(4), "k": np.array([4, 1, 4]), "a": _w(1, 8, 4), "r": _w(1, 8, 2)})


def half() -> bytes:
    n = helper.make_node
    return _model([
        n("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), n("Conv", ["h", "w"], ["c"], kernel_shape=[1, 1]),
        n("HardSigmoid", ["c"], ["s"]), n("Mul", ["c", "s"], ["m"]), n("Cast", ["m"], ["y"], to=FLOAT),
    ], {"w": _w(2, 1, 1, 1, dtype=np.float16)})


def nested() -> bytes:
    n = helper.make_node
    y = [helper.make_tensor_value_info("y", FLOAT, None)]
    inner = helper.make_graph([n("Identity", ["x"], ["y"])], "inner", [], y)
    other = helper.make_graph([n("Constant", [], ["y"], value=numpy_helper.from_array(_w(1, 1, 4, 4)))],
                              "other", [], y)
    return _model([n("Shape", ["x"], ["i"]), n("ConstantOfShape", ["i"], ["j"]), n("Add", ["x", "j"], ["k"]),
                   n("ReduceSum", ["k"], ["r"], keepdims=0), n("Greater", ["r", "o"], ["b"]),
                   n("If", ["b"], ["y"], then_branch=inner, else_branch=other)],
                  {"o": np.float32(0)})


def text(path: str) -> bytes:
    return (RUN / path).read_bytes()


def recipes() -> list[bytes]:
    lines = [json.loads(line) for line in text("journal.log").splitlines()]
    written = [line["user_attr"]["recipe"] for line in lines if "recipe" in line.get("user_attr", ())]
    steps = [{"pass": "prune", "allocation": "latency", "amount": 0.5, "criterion": "l2", "machine": "cpu",
              "prices": [["conv", 1.0, 2.0]], "ratios": [], "rises": [["stem", [[0.5, 0.1]]]], "width_step": 8},
             {"pass": "recover", "epochs": 3, "learning_rate": 0.01, "temperature": 4.0, "soft_weight": 1,
              "transfer": "features", "after": [1]},
             {"pass": "mixed", "bits": [["w", 4]], "block": 32, "symmetric": True},
             {"pass": "qat", "epochs": 1, "learning_rate": 0.001}]
    return [line.encode() for line in (*written, json.dumps({"version": 1, "steps": steps}))]


def entry() -> bytes:
    content = packed({"w": _w(2, 3), "n": np.array(["a", "b"])})
    return json.dumps({"train_s": 1.0, "notes": [], "sha256": "0"}).encode() + b"\n" + content


def calibrated() -> bytes:
    """What `pared profile-device` writes."""
    fit = {"form": "roofline", "coefficients": dict.fromkeys(NAMES, 2.0), "noise": 0.1, "doubt": 1.3, "loo_mape": 0.1,
           "models": 9, "log_covariance": [[0.0] * i + [0.04] for i in range(len(NAMES))]}
    return json.dumps({"extends": "rpi4-ort-cpu", "name": "mine", "calibration": {"fp32": fit}}).encode()


CATALOGUE = ("host-cpu", "rpi4-ort-cpu", "ethos-u55-256", "stm32l4r5-cube-ai")
EXAMPLES: dict[str, list[bytes]] = {
    "run_file": [text("run.yaml"), RUN_FILE.encode()],
    "profile": [text("profiles/lab.yaml"), calibrated(), *((CATALOG / f"{name}.yaml").read_bytes() for name in CATALOGUE)],
    "journal": [text("journal.log")],
    "card": [text("artifacts/sensitivity-0.json"), *(p.read_bytes() for p in sorted(RUN.glob("artifacts/*.json")))],
    "onnx_file": [convolutional(), integer(), products(), half(), nested()],
    "recipe": recipes(),
    "table": [text("profiles/lab.csv")],
    "cached": [entry(), packed({"w": _w(2, 3)})],
    "live": [text("status.json"), b"1"],
}
SMALL = convolutional()
