"""What a cluster's nodes import: this package, and the folder of the model."""

from pathlib import Path

import pytest

from pared.errors import ConfigError
from pared.search.workers import code


def test_the_package_and_the_models_folder_travel_runs_and_hidden_files_stay(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("x = 1\n")
    (tmp_path / "weights.npz").write_bytes(b"w")
    (tmp_path / ".env").write_text("SECRET=1\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run.yaml").write_text("")
    with code.shipped([str(tmp_path)]) as (package, users):
        assert (Path(package) / "search" / "workers" / "crew.py").is_file() and Path(package).name == "pared"
        assert not (Path(package) / "tests").exists()
        assert {path.name for path in Path(users).iterdir()} == {"model.py", "weights.npz"}
    assert not Path(package).exists()


def test_a_file_or_a_package_travels_alone(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "other.py").write_text("")
    with code.shipped([str(tmp_path / "pack")]) as (_, users):
        assert {path.name for path in Path(users).iterdir()} == {"pack"}
    with code.shipped([str(tmp_path / "other.py")]) as (_, users):
        assert {path.name for path in Path(users).iterdir()} == {"other.py"}


def test_a_folder_that_is_too_large_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "MOST_MB", 1)
    (tmp_path / "data.bin").write_bytes(bytes(2_000_000))
    with pytest.raises(ConfigError, match=r"has 2 MB; at most 1 MB.*cluster.code"), \
            code.shipped([str(tmp_path)]):
        pass
