import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from pared.errors import ExportError
from pared.evaluators import accuracy
from pared.evaluators.export import export
from pared.evaluators.runtimes import runtime
from pared.spaces.subject import Split, example_inputs


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # decided by the data
            return x * 2
        return x


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x @ x.transpose(1, 2))


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.reshape(1, 16))


class TwoInputs(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * 2 + b.sum(1, keepdim=True)


def test_the_file_is_self_contained_and_takes_any_batch(subject: object) -> None:
    model = export(subject.model(), example_inputs(subject))
    onnx.checker.check_model(model, full_check=True)
    assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer)
    session = runtime("onnxruntime").load(model.SerializeToString(), 1)
    assert session.fixed_batch is None
    for n in (1, 7):
        assert session.run((subject.split("test").inputs[0][:n],)).shape == (n, 10)


def test_equal_weights_give_equal_bytes(subject: object) -> None:
    once, twice = (export(subject.model(), example_inputs(subject)).SerializeToString() for _ in range(2))
    assert once == twice


def test_the_file_names_no_path_of_the_machine_that_made_it(subject: object) -> None:
    content = export(subject.model(), example_inputs(subject)).SerializeToString()
    assert b"site-packages" not in content and b".py" not in content


@pytest.mark.parametrize(("model", "told"), [(Branches(), "test_export.py:|sum"), (Unknown(), "eigvalsh|eigh")])
def test_a_model_that_does_not_export_is_told_with_its_line_or_operator(model: nn.Module, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        export(model.eval(), (np.ones((2, 3, 3), np.float32),))


def test_a_model_with_a_fixed_batch_is_exported_and_scored_one_by_one() -> None:
    inputs = np.random.default_rng(0).normal(size=(6, 4, 4)).astype(np.float32)
    torch.manual_seed(0)
    model = FixedBatch().eval()
    session = runtime("onnxruntime").load(export(model, (inputs[:2],)).SerializeToString(), 1)
    assert session.fixed_batch == 1
    outputs = accuracy.outputs(session, Split((inputs,), np.zeros(6, np.int64)))
    with torch.inference_mode():
        assert np.allclose(outputs[3], model(torch.from_numpy(inputs[3:4])).numpy()[0], atol=1e-5)


def test_several_inputs_keep_their_order() -> None:
    a, b = np.ones((3, 4), np.float32), np.full((3, 5), 7, np.float32)
    session = runtime("onnxruntime").load(export(TwoInputs(), (a, b)).SerializeToString(), 1)
    assert np.allclose(session.run((a, b)), 37)
