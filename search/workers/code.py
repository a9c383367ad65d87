"""The code that workers import: found in place on one machine, shipped to the nodes of a cluster."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ...errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]  # of this package, whatever its folder is called
ROOMS = ("hardware_profiles", "spaces", "evaluators", "search")
USERS = "pared_users_code"  # a folder that workers put on their path
MOST_MB = 100


def import_path() -> list[str]:
    """What this process imports beside installed packages."""
    installed = (sys.prefix, sys.base_prefix)
    return [os.path.abspath(folder) for folder in sys.path if not folder.startswith(installed)]


def arrive(folders: Iterable[str]) -> None:
    """On a worker: what was shipped, and `folders` that are here as well, can be imported."""
    spec = find_spec(USERS)
    here = [*(spec.submodule_search_locations or () if spec else ()), *folders]
    sys.path[:0] = [folder for folder in here if folder not in sys.path]


@contextmanager
def shipped(paths: Iterable[str]) -> Iterator[list[str]]:
    """Folders for Ray's `py_modules`: this package as it is here, and the user's own code.

    `paths`: files and packages are taken as such; of any other folder what lies in it, without runs and
    hidden files. Raises ConfigError: too large.
    """
    with tempfile.TemporaryDirectory(prefix="pared-code-") as folder:
        package, users = Path(folder) / "pared", Path(folder) / USERS
        users.mkdir()
        _copied(ROOT.glob("*.py"), package)
        for room in ROOMS:
            shutil.copytree(ROOT / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
        for path in map(Path, paths):
            _copied([path] if path.is_file() or _is_package(path) else _content(path), users)
        _check_small(users)
        yield [str(package), str(users)]


def _copied(paths: Iterable[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in paths:
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True, ignore=_left_out)
        else:
            shutil.copy(path, folder)


def _content(folder: Path) -> list[Path]:
    names = os.listdir(folder)
    return [folder / name for name in sorted(set(names) - _left_out(str(folder), names))]


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Hidden files, caches, run directories."""
    return {name for name in names if name.startswith(".") or name == "__pycache__"
            or (Path(folder) / name / "run.yaml").exists()}


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def _check_small(folder: Path) -> None:
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    if megabytes > MOST_MB:
        raise ConfigError(f"what is to be shipped to the cluster with the model has {megabytes:.0f} MB; at "
                          f"most {MOST_MB} MB are allowed: name the files and folders that are needed as "
                          "cluster.code, and put data where every node can read it")
