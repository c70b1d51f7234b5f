"""House rules that a machine can check: who may import whom, and how large things may grow."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import orchestrator

ROOT = Path(orchestrator.__file__).parents[1]
PACKAGE = ROOT / "orchestrator"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAY_IMPORT = {
    "cli": {"cli", "config", "edge", "core"},
    "config": {"config", "core"},
    "edge": {"edge", "core"},
    "core": {"core"},
    "": {"core", "edge", "cli"},  # the package itself, its __main__, errors, worker
}
DOES_IO = {
    "asyncio",
    "io",
    "os",
    "pathlib",
    "random",
    "redis",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "tempfile",
    "time",
}
LONG_FUNCTIONS: dict[str, str] = {}  # module:function → why it is longer than 50 lines


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_import_in_one_direction(path: Path) -> None:
    ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("orchestrator.")}
    rooms = {name for name in ours if (PACKAGE / name).is_dir()}
    assert rooms <= MAY_IMPORT[room_of(path)]


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) == "core"], ids=name_of)
def test_the_core_does_no_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & DOES_IO


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) != "cli"], ids=name_of)
def test_hydra_stays_in_cli(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & {"hydra", "omegaconf"}


def test_only_the_machine_knows_transitions() -> None:
    users = {name_of(path) for path in MODULES if "transitions" in {name.split(".")[0] for name in imports_of(path)}}
    assert users == {"core/machine.py"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300, "more than 300 lines: something else has moved in"
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and f"{name_of(path)}:{node.name}" not in LONG_FUNCTIONS
        ):
            assert (node.end_lineno or 0) - node.lineno < 50, f"{node.name} is longer than 50 lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_lives_in_it(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_import_graph_has_no_cycle() -> None:
    graph = {".".join(path.relative_to(ROOT).with_suffix("").parts): imports_of(path) for path in MODULES}
    graph = {name: {other for other in used if other in graph} for name, used in graph.items()}
    while graph:
        leaves = {name for name, used in graph.items() if not used}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {name: used - leaves for name, used in graph.items() if name not in leaves}


def test_public_names_are_few_and_importable() -> None:
    assert len(orchestrator.__all__) <= 12
    assert orchestrator.__all__ == sorted(orchestrator.__all__)
    assert all(getattr(orchestrator, name) is not None for name in orchestrator.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        orchestrator.nonsense  # noqa: B018  # the access is the test


def test_the_top_level_is_what_it_should_be() -> None:
    allowed = {"pyproject.toml", "README.md", "LICENSE", "conf", "orchestrator", "tests", "recipes"}
    made_by_use = {"dist", "build", "runs", "sweeps"}
    there = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert there - made_by_use <= allowed
