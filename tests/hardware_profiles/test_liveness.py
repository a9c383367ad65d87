import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pared.hardware_profiles.liveness import activation_peak_bytes


def chain(*nodes: onnx.NodeProto, outputs: list[str], weights: dict[str, np.ndarray] | None = None) -> bytes:
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes), "g", [tensor("x", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [tensor(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


KERNEL = {"w": np.ones((16, 4, 3, 3), np.float32)}
TENSOR = 4 * 8 * 8 * 4  # bytes of x at batch 1


def conv(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, "w"], [target], pads=[1, 1, 1, 1])


def test_peak_is_input_plus_output_of_one_convolution() -> None:
    assert activation_peak_bytes(chain(conv("x", "y"), outputs=["y"], weights=KERNEL)) == TENSOR * 5


def test_an_activation_works_in_place() -> None:
    model = chain(conv("x", "y"), helper.make_node("Relu", ["y"], ["z"]), outputs=["z"], weights=KERNEL)
    assert activation_peak_bytes(model) == TENSOR * 5


def test_a_shortcut_keeps_its_tensor_alive() -> None:
    nodes = [conv("x", "a"), helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[3, 3], pads=[1] * 4),
             helper.make_node("Sub", ["b", "a"], ["c"])]
    assert activation_peak_bytes(chain(*nodes, outputs=["c"], weights=KERNEL)) == TENSOR * 12


@pytest.mark.parametrize("rank", [2])
def test_the_tiny_network_needs_less_in_int8(rank: int, subject: object) -> None:
    from pared.evaluators.export import export
    from pared.spaces.passes.int8_static import Int8Static, Int8StaticPass
    from pared.spaces.subject import example_inputs

    inputs = example_inputs(subject, rank)
    model = export(subject.model(), inputs)
    data = {"input0": subject.split("calibration").inputs[0]}
    small = Int8StaticPass().apply(Int8Static("minmax", "uint8", True, "all"), model, data)
    before, after = (activation_peak_bytes(m.SerializeToString()) for m in (model, small))
    assert before == 2 * 16 * 14 * 14 * 4  # the residual: two tensors of 16 channels at 14 x 14
    assert after < before / 2
