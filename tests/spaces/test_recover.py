import numpy as np
import pytest
import torch

from pared.errors import TrainingError
from pared.evaluators import accuracy
from pared.evaluators.export import export
from pared.evaluators.runtimes import runtime
from pared.spaces.materials import Materials, Teacher
from pared.spaces.passes.prune import Prune, PrunePass
from pared.spaces.passes.recover import Recover, RecoverPass
from pared.spaces.subject import example_inputs


def teacher(subject: object) -> np.ndarray:
    file = export(subject.model(), example_inputs(subject)).SerializeToString()
    return accuracy.outputs(runtime("onnxruntime").load(file, 1), subject.split("train"))


def hits(model: torch.nn.Module, subject: object) -> float:
    split = subject.split("validation")
    with torch.inference_mode():
        return subject.score(model(torch.from_numpy(split.inputs[0])).numpy(), split.targets).mean()


@pytest.mark.parametrize("soft_weight", [0.0, 0.8, 1.0])
def test_recovery_gains_back_what_pruning_lost(subject: object, soft_weight: float) -> None:
    pruned = PrunePass().apply(Prune((0.0, 0.5), "l2", 8), subject.model(), Materials(subject))
    seen: list[float] = []
    step = Recover(2, 5e-3, 4.0, soft_weight)
    model = RecoverPass().train(
        step, pruned, Materials(subject, 0, Teacher(teacher(subject)), on_step=seen.append))
    assert hits(model, subject) > hits(pruned, subject) + 0.05
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) == 2 * 20


def test_recovery_is_deterministic_for_a_seed(subject: object) -> None:
    pruned = PrunePass().apply(Prune((0.5, 0.5), "l2", 8), subject.model(), Materials(subject))
    outputs, step = teacher(subject), Recover(1, 3e-3, 4.0, 0.8)
    states = [RecoverPass().train(step, pruned, Materials(subject, seed, Teacher(outputs))).state_dict()
              for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_divergence_is_told_when_the_loss_is_not_a_number(subject: object) -> None:
    outputs = np.full_like(teacher(subject), np.nan)
    with pytest.raises(TrainingError, match="the loss is nan"):
        RecoverPass().train(Recover(1, 1e-3, 4.0, 0.5), subject.model(), Materials(subject, 0, Teacher(outputs)))
