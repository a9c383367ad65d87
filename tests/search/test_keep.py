from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Pared
from helpers import load_tiny, write_run_file

import pared


@pytest.mark.slow
@pytest.mark.ray
def test_no_file_of_a_search_changes_a_kept_layer(tmp_path: Path, pared_cli: Pared) -> None:
    run_file = write_run_file(tmp_path, keep=["head"], search={"trials": 16},
                              space={"qat": {"epochs": 1}, "int8_nncf": False, "prune": {"allocation": "stages"}})
    result = pared_cli("search", run_file, "--out", tmp_path / "run", timeout=900)
    assert result.returncode == 0, result.stderr
    head = load_tiny().trained().head.weight.detach().numpy()
    run = pared.open_run(tmp_path / "run")
    for candidate in run.candidates:
        tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(candidate.path).graph.initializer}
        kept = tensors["head.weight"]
        assert kept.dtype == np.float32, candidate.recipe.label
        # Training may go on around a kept layer; no pass narrows, rounds or trains it.
        assert np.array_equal(kept, head), candidate.recipe.label
    assert {name for c in run.candidates for name in c.recipe.names} >= {"recover", "int8_static", "mixed", "qat"}


@pytest.mark.slow
@pytest.mark.ray
def test_keeping_a_layer_that_is_not_there_is_told_and_nothing_written(tmp_path: Path, pared_cli: Pared) -> None:
    result = pared_cli("search", write_run_file(tmp_path, keep=["haed"]), "--out", tmp_path / "run")
    assert result.returncode == 2 and "did you mean 'head'" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()
