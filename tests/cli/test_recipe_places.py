"""A recipe runs from wherever it stands, whatever its file is called; its script is found beside it."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest

from orchestrator.cli import shelves
from tests.cli.invoke import Commands

ODD = [
    "a b", "it's", 'say "x"', "a,b", "a=b", "$HOME", "${x}", "ünï→😀", "-dash", "--cfg", "[br]", "{cu}", "(par)", "a@b",
    "50%", "a%40b", "a:b", "back\\slash", "#hash", "a;b", "~tilde", "*", "a|b", "!x", "trail ", "new\nline", "null",
    "true", "3", "override x", "a\\'b", "recipe=x", "_self_", "x" * 200,
]  # fmt: skip
NUMBER = itertools.count()
SCRIPT = """\
import os
open(f"ran.{os.environ['A']}", "w").close()
"""


def put(folder: Path, name: str = "r.yaml", text: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "s.py").write_text(SCRIPT)
    path = folder / name
    path.write_text(text or "role: found\nworker: {cmd: [__python__, s.py], env: {A: 0}}\n")
    return path


def ran(tmp_path: Path) -> set[str]:
    return {path.suffix[1:] for path in tmp_path.glob("ran.*")}


def role(commands: Commands, *words: str) -> str:
    said = commands.ctl("plan", "--json", *words)
    assert said.code == 0, said.err
    return str(json.loads(said.out)["groups"][0]["role"])


@pytest.mark.parametrize("name", ODD)
def test_a_file_may_be_called_anything(commands: Commands, tmp_path: Path, name: str) -> None:
    put(tmp_path, f"{name}.yaml")
    said = commands.orchestrate("--cfg", "job", f"{name}.yaml")
    assert (said.code, "\nrole: found\n" in said.out) == (0, True), said.err
    assert role(commands, str(tmp_path / f"{name}.yaml")) == "found"


@pytest.mark.parametrize("name", ODD[3:9])
def test_an_odd_file_runs_with_its_script(commands: Commands, tmp_path: Path, name: str) -> None:
    put(tmp_path / "d", f"{name}.yaml")
    assert commands.orchestrate(f"d/{name}.yaml", "logs=files", "worker.env.A=7").code == 0
    assert ran(tmp_path) == {"7"}


@pytest.mark.parametrize("name", ["r", *ODD[1:4], "${x}"])
def test_an_odd_file_is_swept(commands: Commands, tmp_path: Path, name: str) -> None:
    put(tmp_path / "d", f"{name}.yaml")
    assert commands.orchestrate("-m", f"d/{name}.yaml", "logs=files", "worker.env.A=1,2").code == 0
    assert ran(tmp_path) == {"1", "2"}


def test_of_two_names_that_look_alike_each_is_itself(commands: Commands, tmp_path: Path) -> None:
    for name in ("a@b", "a%40b", "a%2540b"):
        put(tmp_path, f"{name}.yaml", f"role: n{len(name)}\nworker: {{cmd: 'true'}}\n")
    assert role(commands, "a@b.yaml") == "n3"
    assert role(commands, "a%40b.yaml") == role(commands, "recipe=./a%40b.yaml") == "n5"
    assert role(commands, "a%2540b.yaml") == "n7"


@pytest.mark.parametrize("place", ["mine", "mine/recipe"])
@pytest.mark.parametrize("brought", ["--config-dir=mine", "hydra.searchpath=[file://{tmp}/mine]"])
def test_a_recipe_of_a_directory_that_is_brought_along(
    commands: Commands, tmp_path: Path, place: str, brought: str
) -> None:
    put(tmp_path / place, "indir.yaml")
    put(tmp_path / place, "other.yaml", "defaults: [indir]\nnodes: '2:4'\n")
    words = ["recipe=indir", brought.replace("{tmp}", str(tmp_path)), "logs=files"]
    assert commands.orchestrate(*words, "worker.env.A=1").code == 0
    assert commands.orchestrate("-m", *words, "worker.env.A=2,3").code == 0
    assert ran(tmp_path) == {"1", "2", "3"}
    assert "nodes: '2:4'" in commands.orchestrate("--cfg", "job", words[1], "recipe=[indir,other]").out.replace(
        "nodes: 2:4", "nodes: '2:4'"
    )
    said = commands.orchestrate(words[1], "recipe=indr")
    assert (said.code, "did you mean 'indir'?" in said.err) == (2, True)
    assert commands.orchestrate("recipe=indir").code == 2, "what one line has brought is not there for the next"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of recipes; importing it leaves a trace."""
    name = f"pack{next(NUMBER)}"  # Python remembers what it has imported
    folder = tmp_path / "site" / name
    put(folder / "recipes", "r.yaml")
    put(folder / "conf", "r.yaml")
    (folder / "conf" / "__init__.py").touch()
    put(folder / "recipe", "hydra_style.yaml", "# @package _global_\nrole: found\nworker: {cmd: 'true'}\n")
    (folder / "__init__.py").write_text(f"from pathlib import Path; Path({str(tmp_path / 'imported')!r}).touch()")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["recipe=pkg://pack.recipes/r"],
        ["recipe=pkg://pack/recipes/r.yaml"],
        ["hydra.searchpath=[pkg://pack.conf]", "recipe=r"],  # Hydra asks for an __init__.py
        ["recipe=hydra_style", "hydra.searchpath=[pkg://pack]"],
    ],
)
def test_a_recipe_of_an_installed_package(commands: Commands, package: Path, words: list[str]) -> None:
    assert role(commands, *(word.replace("pack", package.name) for word in words)) == "found"


def test_a_package_is_found_without_importing_it(
    commands: Commands, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert commands.orchestrate(f"recipe=pkg://{package.name}.recipes/r", "logs=files").code == 0
    assert ran(tmp_path) == {"0"}
    monkeypatch.setenv(
        "ORCHESTRATE_RECIPES", f"/nowhere{os.pathsep}pkg://{package.name}.recipes{os.pathsep}pkg://no.such"
    )
    assert shelves.recipe_dirs()[:3] == ["/nowhere", str(package / "recipes"), str(tmp_path / "recipes")]
    assert role(commands, "recipe=r") == "found"
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    "name", ["pkg://pack.recipes/no", "pkg://no.such/r", "pkg://pack.recipes", "pkg://", "pkg:///r"]
)
def test_what_is_in_no_package_is_not_found(commands: Commands, package: Path, name: str) -> None:
    name = name.replace("pack", package.name)
    said = commands.orchestrate(f"recipe={name}")
    assert (said.code, said.errors[0].partition(";")[0]) == (2, f"recipe: {name!r} is not found")


def test_a_path_in_defaults_is_one_from_the_recipes_own_file(commands: Commands, tmp_path: Path) -> None:
    put(tmp_path / "x" / "sub", "base.yaml")
    put(tmp_path / "sub", "base.yaml", "role: wrong\n")
    put(tmp_path / "x", "r.yaml", "defaults: [./sub/base]\n")
    assert role(commands, "x/r.yaml") == "found"
    (tmp_path / "x" / "sub" / "base.yaml").unlink()
    assert commands.ctl("plan", "x/r.yaml").code == 2


def test_a_recipe_among_recipes_may_go_up_to_another(commands: Commands, tmp_path: Path) -> None:
    put(tmp_path / "recipes", "base.yaml")
    put(tmp_path / "recipes" / "big", "r.yaml", "defaults: [../base]\n")
    assert role(commands, "recipe=big/r") == "found"
