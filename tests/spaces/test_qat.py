from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from helpers import materials
from structures import TOKENS, HandWritten, Stock, built

import pared
from pared.errors import GateError
from pared.evaluators import accuracy
from pared.evaluators.artifact import check_tuned
from pared.evaluators.export import export
from pared.evaluators.runtimes import runtime
from pared.hardware_profiles.optimised import fused
from pared.spaces.graph.trainable import Trainable
from pared.spaces.materials import Materials, Teacher
from pared.spaces.passes import FILE, TUNING
from pared.spaces.passes.binary import Binary
from pared.spaces.passes.int8_static import Int8Static
from pared.spaces.passes.qat import Qat
from pared.spaces.passes.weight_only import WeightOnly
from pared.spaces.subject import example_inputs

INT8, STEP = Int8Static("minmax", "uint8", False, "all"), Qat(1, 1e-3)
qat = TUNING["qat"]


@pytest.fixture(scope="module")
def exported(subject: object) -> onnx.ModelProto:
    return export(subject.model(), example_inputs(subject))


@pytest.fixture(scope="module")
def mine(subject: object, exported: onnx.ModelProto) -> Materials:
    session = runtime("onnxruntime").load(exported.SerializeToString(), 1)
    return Materials(subject, 0, Teacher(accuracy.outputs(session, subject.split("train"))))


def rewritten(subject: object, exported: onnx.ModelProto, name: str, step: object) -> onnx.ModelProto:
    return FILE[name].apply(step, exported, {"input0": subject.split("calibration").inputs[0]})


def hits(graph: onnx.ModelProto, subject: object) -> float:
    session = runtime("onnxruntime").load(graph.SerializeToString(), 1)
    return accuracy.scores(session, subject.split("validation"), subject).mean()


@pytest.mark.parametrize(("name", "step", "gain"), [
    ("binary", Binary("binary"), 0.3), ("binary", Binary("ternary"), 0.03), ("weight_only", WeightOnly(2, 32, True), 0.02)])
def test_training_gains_back_what_few_bits_lost(subject, exported, mine, name: str, step: object, gain: float) -> None:
    before = rewritten(subject, exported, name, step)
    after = qat.tune(Qat(2, 3e-3), before, exported, mine)
    qat.check(STEP, before, after)
    assert hits(after, subject) > hits(before, subject) + gain
    assert abs(after.ByteSize() - before.ByteSize()) < 0.005 * before.ByteSize()


def test_int8_fuses_as_before_and_the_file_predicts_what_was_trained(subject, exported, mine) -> None:
    before = rewritten(subject, exported, "int8_static", INT8)
    after = qat.tune(STEP, before, exported, mine)
    counts = [Counter(node.op_type for node in fused(g.SerializeToString()).nodes) for g in (before, after)]
    assert counts[0] == counts[1] and counts[0]["QLinearConv"] == 3 and counts[0]["QLinearAdd"] == 1
    images = subject.split("validation").inputs[0]
    trained = qat.outputs(after, (images,)).argmax(1)
    stored = accuracy.outputs(runtime("onnxruntime").load(after.SerializeToString(), 1), subject.split("validation"))
    assert (trained == stored.argmax(1)).mean() >= 0.995
    check_tuned("qat", after, (images,), qat.outputs(after, (images,)))
    assert hits(after, subject) > hits(exported, subject) - 0.02


@pytest.mark.parametrize("kind", [HandWritten, Stock])
def test_a_transformer_fuses_as_before(kind: type[torch.nn.Module]) -> None:
    model = built(kind)
    graph = export(model, (TOKENS[:2],))
    step = Int8Static("minmax", "uint8", True, "weighted")
    before = FILE["int8_static"].apply(step, graph, {"input0": TOKENS})
    session = runtime("onnxruntime").load(graph.SerializeToString(), 1)
    data = pared.Classification(model, *[(TOKENS, [0] * len(TOKENS))] * 3)
    taught = Materials(data, 0, Teacher(accuracy.outputs(session, data.split("train"))))
    after = qat.tune(Qat(2, 3e-3), before, graph, taught)
    counts = [Counter(node.op_type for node in fused(g.SerializeToString()).nodes) for g in (before, after)]
    assert counts[0] == counts[1] and counts[0]["QLinearMatMul"]


def test_it_is_deterministic_for_a_seed(subject, exported, mine) -> None:
    before = rewritten(subject, exported, "int8_static", INT8)
    files = [qat.tune(STEP, before, exported, Materials(subject, seed, mine.teacher)).SerializeToString() for seed in (0, 0, 1)]
    assert files[0] == files[1] != files[2]


def test_a_kept_layer_is_left_as_it_is(subject, exported, mine) -> None:
    data = {"input0": subject.split("calibration").inputs[0]}
    before = FILE["int8_static"].apply(INT8, exported, data, frozenset({"head.weight"}))
    after = qat.tune(STEP, before, exported, Materials(subject, 0, mine.teacher, keep=("head",)))
    was, now = ({t.name: t for t in graph.graph.initializer} for graph in (before, after))
    assert was["head.weight"] == now["head.weight"] and was["head.bias"] == now["head.bias"]
    assert was["inner.weight_quantized"] != now["inner.weight_quantized"]


def test_training_nothing_is_caught(subject, exported) -> None:
    before = rewritten(subject, exported, "int8_static", INT8)
    with pytest.raises(GateError, match="left every quantized weight"):
        qat.check(STEP, before, before)


def test_a_sabotaged_writer_is_caught(subject, exported, mine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes the weights of one layer in another order."""
    honest = Trainable.written

    def sabotaged(self: Trainable) -> onnx.ModelProto:
        graph = honest(self)
        tensor = next(t for t in graph.graph.initializer if t.name == "inner.weight_quantized")
        turned = onnx.numpy_helper.to_array(tensor)[::-1].copy()
        tensor.CopyFrom(onnx.numpy_helper.from_array(turned, tensor.name))
        return graph

    monkeypatch.setattr(Trainable, "written", sabotaged)
    with pytest.raises(GateError, match="something else than was trained"):
        qat.tune(STEP, rewritten(subject, exported, "int8_static", INT8), exported, mine)


def test_a_sabotaged_structure_is_caught(subject, exported) -> None:
    before = rewritten(subject, exported, "int8_static", INT8)
    other = onnx.ModelProto()
    other.CopyFrom(before)
    del other.graph.node[3]
    with pytest.raises(GateError, match="changed the nodes"):
        qat.check(STEP, before, other)


def test_an_operator_without_a_gradient_is_a_reason_not_a_crash() -> None:
    class Ranked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.topk(self.head(x), 2)[0]

    x = np.zeros((2, 4), np.float32)
    with pytest.raises(GateError, match="TopK"):
        graph = export(Ranked().eval(), (x,))
        qat.tune(STEP, graph, graph, materials((x,)))
