"""The walls of the house: what is packaged, who may import whom, and what an import costs."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import ROOT

ROOMS = ["hardware_profiles", "spaces", "evaluators", "search"]  # each may import those before it


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> list[tuple[int, str]]:
    """(level, module) of every import statement."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = [(n.level, n.module or "") for n in nodes if isinstance(n, ast.ImportFrom)]
    return found + [(0, a.name) for n in nodes if isinstance(n, ast.Import) for a in n.names]


def absolute(path: Path, level: int, module: str) -> str:
    """`..spaces.recipe` as seen from `path` -> `spaces.recipe`."""
    folder = path.relative_to(ROOT).parent.parts
    return ".".join((*folder[: len(folder) - level + 1], *filter(None, [module])))


def test_packages_are_the_folders_with_an_init_file() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(config["tool"]["setuptools"]["packages"])
    folders = {p.parent.relative_to(ROOT) for room in ROOMS for p in (ROOT / room).rglob("__init__.py")}
    assert listed == {"pared"} | {f"pared.{'.'.join(folder.parts)}" for folder in folders}


def test_root_holds_no_stray_modules() -> None:
    assert {p.name for p in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_floors_below_and_by_relative_name(room: str) -> None:
    allowed = {"errors", *ROOMS[: ROOMS.index(room) + 1]}
    for path in sources(room):
        for level, module in imported(path):
            if level == 0:
                assert module.split(".")[0] not in ("pared", *ROOMS), f"{path}: {module}"
            elif target := absolute(path, level, module).split(".")[0]:
                assert target in allowed, f"{path} imports {target}"


def test_ray_and_optuna_stay_behind_their_doors() -> None:
    doors = {"ray": {f"search/workers/{name}.py" for name in ("cluster", "crew", "faults", "lanes", "meters",
                                                        "nodes", "parcel")},
             "optuna": {f"search/{name}.py" for name in ("suggest", "study", "journal", "database", "driver",
                                                         "proposals", "run")}}
    for path in (p for room in ROOMS for p in sources(room)):
        if path.parent.name == "sampler":  # an Optuna sampler, which knows nothing of pared
            assert all(level <= 1 for level, _ in imported(path))
            continue
        for level, module in imported(path):
            name = module.split(".")[0]
            if level == 0 and name in doors:
                assert str(path.relative_to(ROOT)) in doors[name], f"{path} imports {name}"


def test_the_report_reads_neither_workers_nor_subjects() -> None:
    for path in sources("search/report"):
        for level, module in imported(path):
            assert not level or not absolute(path, level, module).startswith(
                ("search.workers", "evaluators.subjects", "search.driver")), path


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(out.stdout.splitlines()[-1]))


def test_importing_pared_loads_neither_torch_nor_ray() -> None:
    assert not {"torch", "ray", "optuna", "onnx"} & loaded_by("import pared")


def test_the_command_line_loads_neither_torch_nor_ray_for_help() -> None:
    help_ = "import pared.search.cli as c\ntry: c.app(['--help'])\nexcept SystemExit: pass"
    assert not {"torch", "ray", "optuna", "onnx"} & loaded_by(help_)


def test_public_names_are_there_and_resolve() -> None:
    import pared

    for name in pared.__all__:
        assert getattr(pared, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = pared.serach


def test_the_schema_shipped_for_editors_is_the_current_one() -> None:
    from pared.search.config import schema

    assert (ROOT / "search" / "run.schema.json").read_text() == schema()  # else: make schema


def test_no_project_file_names_a_path_of_one_machine() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in files:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".html", ".csv", ".json"} and path.exists():
            text = path.read_text(errors="ignore")
            assert "/home/" + "user" not in text and "/ro" + "ot/" not in text, name
