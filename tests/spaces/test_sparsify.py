"""Sparse weights: the zeros are where they were promised, survive training, and leave the file."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from helpers import materials
from torch import nn
from torch.nn.utils import parametrize

from pared.errors import GateError
from pared.evaluators import accuracy
from pared.evaluators.artifact import Store
from pared.evaluators.devices import Reading
from pared.evaluators.export import export
from pared.evaluators.runtimes import runtime
from pared.evaluators.tflite.quantized import read as read_for_tflite
from pared.hardware_profiles import graph as kernels
from pared.hardware_profiles.load import load
from pared.search import trial
from pared.search.records import Job
from pared.spaces import legal
from pared.spaces.materials import Materials, Teacher
from pared.spaces.passes import FILE, Scope, _onnx
from pared.spaces.passes.int8_static import Int8Static
from pared.spaces.passes.pack_zeros import PackZeros, PackZerosPass, unpacked
from pared.spaces.passes.recover import Recover, RecoverPass
from pared.spaces.passes.sparsify import Mask, Sparsify, SparsifyPass
from pared.spaces.recipe import Recipe
from pared.spaces.space import build
from pared.spaces.subject import example_inputs
from pared.spaces.taps import taps
from pared.spaces.teaching import remembered

PACK = PackZerosPass()
HALF, MOST, FOURS = (Sparsify("unstructured", 0.5, False), Sparsify("unstructured", 0.8, False),
                     Sparsify("2:4", 0.5, False))


def sparse(step: Sparsify, subject: object, **more: object) -> nn.Module:
    return SparsifyPass().apply(step, subject.model(), Materials(subject, **more))


def layers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {path: m.weight.detach() for path, m in model.named_modules() if parametrize.is_parametrized(m)}


def zeros(model: onnx.ModelProto) -> int:
    return sum(int((_onnx.array(t) == 0).sum()) for t in _onnx.weights(model).values())


def scope(graph: onnx.ModelProto) -> Scope:
    return Scope((), _onnx.weight_shares(graph), (load("host-cpu"),))


def optimised(graph: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators that really run."""
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "o.onnx"), 4
    ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _onnx.operators(onnx.load(folder / "o.onnx"))


def run(graph: onnx.ModelProto, *inputs: np.ndarray) -> np.ndarray:
    return runtime("onnxruntime").load(graph.SerializeToString(), 1).run(inputs)


def dense_file(format: str, subject: object) -> onnx.ModelProto:
    """A sparse model whose zeros are stored, in a number format."""
    graph = export(sparse(MOST, subject), example_inputs(subject))
    if format == "none":
        return graph
    usual = FILE[format].decode(FILE[format].usual(scope(graph))[0], scope(graph))
    return FILE[format].apply(usual, graph, {"input0": subject.split("calibration").inputs[0][:64]})


@pytest.mark.parametrize("step", [HALF, MOST])
def test_every_layer_has_its_share_of_zeros_on_its_smallest_weights(step: Sparsify, subject: object) -> None:
    model = sparse(step, subject)
    found = layers(model)
    assert set(found) == {"inner", "down.0"}, "layers under a thousand weights are not worth it"
    for path, weight in found.items():
        original = subject.model().get_submodule(path).weight.detach()
        assert int((weight == 0).sum()) == round(step.amount * weight.numel())
        assert original[weight == 0].abs().max() <= original[weight != 0].abs().min()
        assert torch.equal(weight[weight != 0], original[weight != 0])


def test_two_of_every_four_inputs_are_zero(subject: object) -> None:
    for weight in layers(sparse(FOURS, subject)).values():
        fours = weight.movedim(1, -1).reshape(-1, 4)
        assert ((fours == 0).sum(1) == 2).all()


def test_a_transposed_convolution_is_sparse_along_its_inputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(32, 6, 3), nn.Conv2d(6, 32, 3)).eval()
    images = np.zeros((2, 32, 4, 4), np.float32)
    found = layers(SparsifyPass().apply(FOURS, model, materials((images,))))
    assert set(found) == {"0"}, "six inputs do not make fours"
    assert ((found["0"].movedim(0, -1).reshape(-1, 4) == 0).sum(1) == 2).all()


def test_kept_and_shared_weights_stay_dense(subject: object) -> None:
    assert set(layers(sparse(MOST, subject, keep=("down",)))) == {"inner"}
    tied = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)).eval()
    tied[1].weight = tied[0].weight
    model = SparsifyPass().apply(MOST, tied, materials((np.zeros((2, 64), np.float32),)))
    assert set(layers(model)) == {"2"}


def test_it_is_refused_with_a_reason_where_nothing_is_large_enough(subject: object) -> None:
    with pytest.raises(GateError, match="no layer of 1024 weights"):
        sparse(MOST, subject, keep=("inner", "down"))


def keep_all(mask: Mask, weight: torch.Tensor) -> torch.Tensor:
    return weight


def halve(mask: Mask, weight: torch.Tensor) -> torch.Tensor:
    return weight * mask.mask / 2


def cut_others(mask: Mask, weight: torch.Tensor) -> torch.Tensor:
    return weight * mask.mask.roll(1)


@pytest.mark.parametrize("step", [MOST, FOURS])
@pytest.mark.parametrize("sabotage", [keep_all, halve, cut_others])
def test_a_sabotaged_pass_is_caught(step: Sparsify, sabotage: object, subject: object,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mask, "forward", sabotage)
    with pytest.raises(GateError):
        sparse(step, subject)


@pytest.mark.slow
@pytest.mark.parametrize("step", [MOST, FOURS, Sparsify("unstructured", 0.8, True), Sparsify("2:4", 0.5, True)])
def test_the_zeros_survive_recovery_and_the_cost_is_known_before_it(step: Sparsify, subject: object) -> None:
    inputs, model = example_inputs(subject), sparse(step, subject)
    session = runtime("onnxruntime").load(export(subject.model(), inputs).SerializeToString(), 1)
    teacher = Teacher(accuracy.outputs(session, subject.split("train")))
    trained = RecoverPass().train(Recover(2, 5e-3, 4.0, 0.8), model, Materials(subject, 0, teacher))
    before, after = export(model, inputs), export(trained, inputs)
    assert zeros(before) == zeros(after)
    packed = [PACK.apply(PackZeros(), graph, {}).ByteSize() for graph in (before, after)]
    assert packed[0] == packed[1] < 0.8 * before.ByteSize()
    split = subject.split("validation")
    hits = [(run(graph, *split.inputs).argmax(1) == split.targets).mean() for graph in (before, after)]
    assert hits[1] > hits[0]
    assert torch.equal(layers(model)["inner"] == 0, layers(trained)["inner"] == 0) != step.gradual


def test_the_export_sees_plain_weights_under_their_own_names(subject: object) -> None:
    model = sparse(MOST, subject)
    graph = export(model, example_inputs(subject))
    plain = export(subject.model(), example_inputs(subject))
    assert set(_onnx.weights(graph)) == set(_onnx.weights(plain))
    assert _onnx.operators(graph) == _onnx.operators(plain)
    assert set(layers(model)) == {"inner", "down.0"}, "the module that goes on to recovery keeps its masks"


@pytest.mark.parametrize("format", ["none", "fp16", "int8_static"])
def test_packed_zeros_are_the_same_network_in_a_smaller_file(
    format: str, subject: object, tmp_path: Path
) -> None:
    dense = dense_file(format, subject)
    packed = PACK.apply(PackZeros(), dense, {})
    PACK.check(PackZeros(), dense, packed)
    onnx.checker.check_model(packed)
    images = subject.split("validation").inputs[0][:64]
    np.testing.assert_array_equal(run(dense, images), run(packed, images))
    assert optimised(dense, tmp_path) == optimised(packed, tmp_path)
    assert list(kernels.read(dense.SerializeToString())) == list(kernels.read(packed.SerializeToString()))


@pytest.mark.parametrize("format", ["none", "int8_static"])
def test_another_runtime_folds_the_unpacking_as_well(format: str, subject: object) -> None:
    pytest.importorskip("openvino")
    dense, images = dense_file(format, subject), subject.split("validation").inputs[0][:64]
    plain, packed = (runtime("openvino").load(graph.SerializeToString(), 1)
                     for graph in (dense, PACK.apply(PackZeros(), dense, {})))
    np.testing.assert_array_equal(plain.run((images,)), packed.run((images,)))
    assert plain.precision_share == packed.precision_share


def test_packed_zeros_can_be_unpacked_for_readers_of_weights(subject: object) -> None:
    dense = export(sparse(MOST, subject), example_inputs(subject))
    whole = unpacked(PACK.apply(PackZeros(), dense, {}))
    assert {t.name: _onnx.array(t).tobytes() for t in dense.graph.initializer if not (_onnx.array(t) == 0).any()} \
        .items() <= {t.name: _onnx.array(t).tobytes() for t in whole.graph.initializer}.items()
    assert _onnx.operators(whole) == _onnx.operators(dense)
    int8 = FILE["int8_static"]
    step = int8.decode({"calibration": "minmax", "activations": "int8", "per_channel": True, "operators": "all"},
                       scope(dense))
    quantized = int8.apply(step, dense, {"input0": subject.split("calibration").inputs[0][:64]})
    packed = PACK.apply(PackZeros(), quantized, {})
    mine, theirs = read_for_tflite(packed), read_for_tflite(quantized)
    assert [node.op_type for node in mine.nodes] == [node.op_type for node in theirs.nodes]
    assert all(np.array_equal(mine.constants[name].values, theirs.constants[name].values)
               for node in theirs.nodes for name in node.input if name in theirs.constants)


def test_a_sabotaged_packing_is_caught(subject: object, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = export(sparse(MOST, subject), example_inputs(subject))
    with pytest.raises(GateError, match="no weight with enough zeros"):
        PACK.check(PackZeros(), dense, dense)
    honest = np.packbits
    monkeypatch.setattr(np, "packbits", lambda bits: honest(bits[::-1]))
    with pytest.raises(GateError, match="changed the values"):
        PACK.check(PackZeros(), dense, PACK.apply(PackZeros(), dense, {}))


def test_a_dense_file_is_left_alone_and_refused(subject: object) -> None:
    dense = export(subject.model(), example_inputs(subject))
    after = PACK.apply(PackZeros(), dense, {})
    assert after.SerializeToString() == dense.SerializeToString()
    with pytest.raises(GateError):
        PACK.check(PackZeros(), dense, after)


def test_packing_comes_along_with_sparse_weights_and_is_no_format(subject: object) -> None:
    space = build(scope(export(subject.model(), example_inputs(subject))), {})
    assert "pack_zeros" not in space.formats and "pack_zeros" not in space.knobs
    recipe = space.decode(space.setting({"sparsify": 0}, "int8_static"))
    assert recipe.names == ("sparsify", "recover", "int8_static", "pack_zeros")
    assert "pack_zeros" in legal.BRINGS["sparsify"]


@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True])
def test_a_trial_knows_the_size_of_the_sparse_file_before_it_trains(
    int8: bool, subject: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, store = example_inputs(subject), Store(str(tmp_path))
    dense = export(subject.model(), inputs).SerializeToString()
    teacher = remembered(subject.model(), subject.split("train"), taps(subject.model(), inputs), ("features",))
    bench = trial.Bench(subject, (load("host-cpu"),), str(tmp_path), 1, 0, store.put(dense).sha256,
                        {"validation": np.ones(800)}, {"host-cpu": 1.0}, {}, teacher)
    sizes: list[int] = []
    honest = trial.cost
    monkeypatch.setattr(trial, "cost", lambda file, *rest: sizes.append(len(file)) or honest(file, *rest))
    steps = (Sparsify("unstructured", 0.8, True), Recover(1, 5e-3, 4.0, 0.8, "features", 1.0),
             *((Int8Static("minmax", "uint8", True, "all"),) if int8 else ()), PackZeros())
    outcome = trial.run(Job(0, Recipe(steps).json), bench, lambda *_: Reading(1.0, 1.0, None, None), print)
    assert outcome.state == "complete", outcome.reason
    # In 8 bits a few weights that training left small round to zero as well.
    assert sizes[1] == sizes[0] if not int8 else abs(sizes[1] / sizes[0] - 1) < 0.02
    assert outcome.metrics["size_bytes"]["value"] == sizes[1] < 0.5 * len(dense)
    assert outcome.size_only == {"host-cpu": ["sparsify", "pack_zeros"]}
