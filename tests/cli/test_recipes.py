"""Finding recipes, building on them, and what they may not do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import recipes
from orchestrator.cli.paths import data_dir
from tests.cli.invoke import Commands


def plan(commands: Commands, *words: str) -> dict[str, Any]:
    said = commands.ctl("plan", "--json", *words)
    assert said.err == ""
    planned: dict[str, Any] = json.loads(said.out)
    return planned


def role(commands: Commands, *words: str) -> str:
    return str(plan(commands, *words)["groups"][0]["role"])


def recipe(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def minimal(name: str) -> str:
    return f"role: {name}\nworker: {{cmd: 'true'}}\n"


def test_a_name_is_looked_up_in_the_variable_then_here_then_in_the_package(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan(commands, "recipe=hello")["groups"][0]["workers"][0]["cmd"][1] == str(data_dir("recipes") / "hello.py")
    recipe(tmp_path / "recipes" / "hello.yaml", minimal("here"))
    assert role(commands, "recipe=hello") == "here"
    recipe(tmp_path / "two" / "hello.yaml", minimal("two"))
    monkeypatch.setenv("ORCHESTRATE_RECIPES", f"{tmp_path}/one{os.pathsep}{tmp_path}/two")
    assert role(commands, "recipe=hello") == "two"
    recipe(tmp_path / "one" / "hello.yml", minimal("one"))
    assert role(commands, "recipe=hello") == "one"


@pytest.mark.parametrize(
    "word",
    ["recipe=./sub/r.yaml", "recipe=./sub/r", "sub/r.yaml", "recipe=../{name}/sub/r.yaml", "recipe={tmp}/sub/r.yaml"],
)
def test_a_path_is_a_path(commands: Commands, tmp_path: Path, word: str) -> None:
    recipe(tmp_path / "sub" / "r.yaml", minimal("found"))
    assert role(commands, word.replace("{tmp}", str(tmp_path)).replace("{name}", tmp_path.name)) == "found"


def test_awkward_directories_do_not_matter(commands: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "a b@c$d,e=f{g}'h[i]"
    recipe(folder / "base.yaml", "worker: {cmd: [__python__, s.py]}\n")
    (folder / "s.py").touch()
    recipe(folder / "r.yaml", "defaults: [base]\nrole: found\n")
    planned = plan(commands, f"./{folder.name}/r.yaml")
    assert planned["groups"][0]["role"] == "found"
    assert planned["groups"][0]["workers"][0]["cmd"][1] == str(folder / "s.py")


def test_nested_recipes_have_their_folder_in_their_name(commands: Commands, tmp_path: Path) -> None:
    recipe(tmp_path / "recipes" / "big" / "r.yaml", minimal("nested"))
    assert role(commands, "recipe=big/r") == "nested"
    assert "big/r" in recipes.names()


def test_several_recipes_are_laid_over_each_other_in_their_order(commands: Commands, tmp_path: Path) -> None:
    recipe(tmp_path / "recipes" / "a.yaml", "recipe: {name: A, description: d, needs: [x, y]}\n" + minimal("a"))
    recipe(tmp_path / "recipes" / "b.yaml", "recipe: {name: B, needs: [y, z]}\nrole: b\nrestart: never\n")
    planned = plan(commands, "recipe=[a,b]")
    assert planned["groups"][0]["role"] == "b"
    assert planned["groups"][0]["restart"]["kind"] == "never"
    settings = {name: one["value"] for name, one in planned["settings"].items()}
    assert (settings["recipe.name"], settings["recipe.needs"]) == ("B", '["x", "y", "z"]')
    assert settings["recipe.description"] == "null"  # headers do not merge


def test_a_recipe_builds_on_what_stands_beside_it(commands: Commands, tmp_path: Path) -> None:
    recipe(tmp_path / "x" / "base.yaml", "role: base\nnode: {addr: from-base}\nworker: {cmd: [__python__, s.py]}\n")
    recipe(tmp_path / "recipes" / "base.yaml", "role: wrong\n")
    (tmp_path / "x" / "s.py").touch()
    recipe(tmp_path / "x" / "r.yaml", "defaults: [base, {restart: never}]\nrole: mine\n")
    planned = plan(commands, "recipe=./x/r.yaml")
    assert (planned["groups"][0]["role"], planned["node"]["addr"]) == ("mine", "from-base")
    assert planned["groups"][0]["workers"][0]["cmd"][1] == str(tmp_path / "x" / "s.py")
    assert planned["settings"]["node.addr"]["origin"] == "x/base.yaml:2"


def test_self_first_lets_the_base_win(commands: Commands, tmp_path: Path) -> None:
    recipe(tmp_path / "base.yaml", "role: base\n")
    recipe(tmp_path / "r.yaml", "defaults: [_self_, base]\n" + minimal("mine"))
    assert role(commands, "r.yaml") == "base"


def test_a_command_of_the_command_line_is_not_looked_for_beside_the_recipe(commands: Commands, tmp_path: Path) -> None:
    recipe(tmp_path / "x" / "r.yaml", "worker: {cmd: [__python__, s.py]}\n")
    (tmp_path / "x" / "s.py").touch()
    planned = plan(commands, "x/r.yaml", "--", "true", "s.py")
    assert planned["groups"][0]["workers"][0]["cmd"] == ["true", "s.py"]


def test_the_first_line_of_a_recipe_cannot_place_it_elsewhere(commands: Commands, tmp_path: Path) -> None:
    recipe(tmp_path / "r.yaml", "# @package hydra.job\n" + minimal("plain"))
    assert role(commands, "r.yaml") == "plain"


def test_launcher_and_sweeper_may_be_chosen(commands: Commands, tmp_path: Path) -> None:
    recipe(tmp_path / "r.yaml", "defaults: [{override /hydra/launcher: basic}]\n" + minimal("r"))
    recipe(tmp_path / "s.yaml", minimal("s"))
    assert role(commands, "r.yaml") == "r"
    assert "BasicLauncher" in commands.orchestrate("--cfg", "hydra", "r.yaml").out
    for words in (["s.yaml"], ["r.yaml", "hydra/launcher=parallel"]):  # conf/'s own, and the last word
        assert "BasicLauncher" not in commands.orchestrate("--cfg", "hydra", *words).out


@pytest.mark.parametrize(
    "default",
    [
        "{override /hydra/launcher: ../x}",
        "{override hydra/callbacks: x}",
        "/hydra/callbacks/x",
        "r@hydra.callbacks",
        "{/recipe@hydra: r}",
        "'${oc.env:HOME}'",
        "{override /restart: '${oc.env:HOME}'}",
        "{optional /hydra/env: x}",
    ],
)
def test_a_recipe_cannot_reach_hydra(commands: Commands, tmp_path: Path, default: str) -> None:
    recipe(tmp_path / "r.yaml", f"defaults: [{default}]\n" + minimal("r"))
    said = commands.orchestrate("r.yaml")
    assert said.code == 2
    assert [line.partition(":")[0] for line in said.errors] == ["defaults[0]"]
    assert said.errors[0].endswith(" [r.yaml:1]")


def test_a_directory_of_hydras_own_kind_still_works(commands: Commands, tmp_path: Path) -> None:
    recipe(tmp_path / "mine" / "restart" / "patient.yaml", "kind: on_failure\nbudget: {max: 99}\n")
    planned = plan(commands, "--config-dir", "mine", "restart=patient", "--", "true")
    assert planned["groups"][0]["restart"]["budget"]["max"] == 99


@pytest.mark.parametrize("made", ["fifo", "directory", "bytes"])
def test_what_is_no_text_file_is_refused(commands: Commands, tmp_path: Path, made: str) -> None:
    path = tmp_path / "r.yaml"
    if made == "fifo":
        os.mkfifo(path)
    elif made == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"a: \xff")
    said = commands.orchestrate("recipe=./r.yaml")
    assert said.code == 2
    assert said.errors[0].startswith("recipe: ")
