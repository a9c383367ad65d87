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

    `paths`: Python files and packages are taken as such; of any other folder, the Python files and the
    packages in it. Raises ConfigError: too large.
    """
    with tempfile.TemporaryDirectory(prefix="pared-code-") as folder:
        package, users = Path(folder) / "pared", Path(folder) / USERS
        users.mkdir()
        _copied(ROOT.glob("*.py"), package)
        for room in ROOMS:
            shutil.copytree(ROOT / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
        for path in map(Path, paths):
            _copied([path] if path.is_file() or _is_package(path) else _importable(path), users)
        _check_small(users)
        yield [str(package), str(users)]


def _copied(paths: Iterable[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in paths:
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(path, folder)


def _importable(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir())
            if path.suffix == ".py" or (path.is_dir() and _is_package(path))]


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def _check_small(folder: Path) -> None:
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    if megabytes > MOST_MB:
        raise ConfigError(f"the code to ship to the cluster has {megabytes:.0f} MB, at most {MOST_MB} are "
                          "allowed: put data where every node can read it, or in the subject itself")
