"""orchestratectl recipes: the list, what one means, a new one, and whether files are sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.paths import data_dir
from tests.cli.invoke import Commands

SHIPPED = sorted(data_dir("recipes").glob("*.yaml"))


def told(commands: Commands, *words: str, code: int = 0) -> Any:  # noqa: ANN401 - JSON
    said = commands.ctl("recipes", *words, "--json")
    assert said.code == code, said.err
    return json.loads(said.out)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_list_says_what_for_whether_it_can_run_and_where_from(commands: Commands, tmp_path: Path) -> None:
    put(tmp_path / "recipes" / "mine.yaml", 'defaults: [_base]\nrecipe: {description: "Is \\amine", needs: [yaml]}\n')
    put(tmp_path / "recipes" / "_base.yaml", "recipe: {needs: [no_such]}\nworker: {cmd: 'true'}\n")
    put(tmp_path / "recipes" / "broken.yaml", "a: [\n")
    put(tmp_path / "recipes" / ".hidden" / "r.yaml", "a: b\n")
    found = {one["name"]: one for one in told(commands)}
    assert [*found] == sorted(["mine", "broken", *(path.stem for path in SHIPPED)])
    assert found["hello"]["description"] == "Four workers say who they are"
    assert (found["hello"]["met"], found["hello"]["path"]) == (True, str(data_dir("recipes") / "hello.yaml"))
    assert found["mine"]["needs"] == [
        {"need": "no_such", "met": False, "remedy": "pip install no_such"},
        {"need": "yaml", "met": True, "remedy": None},
    ]
    assert (found["mine"]["met"], found["mine"]["path"]) == (False, "recipes/mine.yaml")
    assert "[recipes/broken.yaml:2:1]" in found["broken"]["error"]
    (line,) = [line for line in commands.ctl("recipes").out.splitlines() if line.startswith("mine ")]
    assert line.split() == ["mine", *["Is", "\\x07mine;", "needs:", "pip", "install", "no_such", "[recipes/mine.yaml]"]]


def test_a_value_is_shown_with_its_origin_and_secrets_are_not(commands: Commands, tmp_path: Path) -> None:
    put(tmp_path / "base.yaml", "worker:\n  nproc: 2\n  env: {HF_TOKEN: hunter2222}\n")
    put(tmp_path / "r.yaml", "defaults: [base]\nworker:\n  cmd: [a, '${run_id}', '???']\nrestart: never\n")
    said = commands.ctl("recipes", "show", "r.yaml", "nodes=2:4", "worker.env.API_KEY=other3333")
    lines = [line.split("#")[0].split() + line.split("#")[1:] for line in said.out.splitlines()]
    for line in (
        ["nodes:", "'2:4'", " override nodes=2:4"],
        ["cmd:", "[a,", "'${run_id}',", "'???']", " r.yaml:3"],
        ["nproc:", "2", " base.yaml:2"],
        ["HF_TOKEN:", "${oc.env:HF_TOKEN}", " base.yaml:3"],
        ["API_KEY:", "${oc.env:API_KEY}", " override worker.env.API_KEY=***"],
        ["kind:", "never", " r.yaml:4"],
    ):
        assert line in lines
    assert "hunter2222" not in said.out
    assert "other3333" not in said.out
    values = told(commands, "show", "r.yaml")["values"]
    assert values["worker.nproc"] == {"value": 2, "origin": "base.yaml:2"}
    assert all(one["origin"] for one in values.values()), "of every value"
    assert {path.name for path in tmp_path.iterdir()} == {"base.yaml", "r.yaml"}


@pytest.mark.parametrize("name", [path.stem for path in SHIPPED])
def test_what_is_shown_is_a_recipe_of_the_same_job(commands: Commands, tmp_path: Path, name: str) -> None:
    shown = commands.ctl("recipes", "show", name)
    assert shown.code == 0
    (tmp_path / "again.yaml").write_text(shown.out)
    before, after = told(commands, "show", name)["values"], told(commands, "show", "again.yaml")["values"]
    assert {path: one["value"] for path, one in after.items()} == {path: one["value"] for path, one in before.items()}
    assert {one["origin"].partition(":")[0] for one in after.values()} == {"again.yaml"}


def test_a_new_recipe_is_sound_runs_and_is_never_overwritten(commands: Commands, tmp_path: Path) -> None:
    assert told(commands, "new", "mine")["path"] == "recipes/mine.yaml"
    text = (tmp_path / "recipes" / "mine.yaml").read_text()
    assert told(commands, "check", "recipes/mine.yaml")[0]["ok"]
    assert commands.orchestrate("recipe=mine", "logs=files").code == 0
    assert len(list(tmp_path.glob("runs/*/*/logs/default/1/*/stdout.log"))) == 4
    said = commands.ctl("recipes", "new", "mine")
    assert (said.code, said.errors) == (
        2,
        ["recipes new: recipes/mine.yaml is there already; choose another name, or remove it"],
    )
    assert (tmp_path / "recipes" / "mine.yaml").read_text() == text
    assert told(commands, "new", "./sub/other.yaml")["run"] == ["orchestrate", "sub/other.yaml"]
    assert told(commands, "check", "sub/other.yaml")[0]["ok"]


@pytest.mark.parametrize("words", [[], ["a", "b"], ["a b"], ["-x"], ["a\nb"], [""]])
def test_an_odd_name_makes_no_recipe(commands: Commands, tmp_path: Path, words: list[str]) -> None:
    assert commands.ctl("recipes", "new", *words).code == 2
    assert list(tmp_path.iterdir()) == []


def test_every_shipped_recipe_is_sound(commands: Commands) -> None:
    assert [one["ok"] for one in told(commands, "check", *map(str, SHIPPED))] == [True] * len(SHIPPED)


def test_every_error_of_every_file_is_told(commands: Commands, tmp_path: Path) -> None:
    put(tmp_path / "good.yaml", "recipe: {needs: [no_such]}\nworker: {cmd: 'true'}\n")
    put(tmp_path / "open.yaml", "nodes: 2\nworker: {cmd: 'true', nproc: '???'}\n")
    put(tmp_path / "bad.yaml", "worker: {cmd: 'true', nproc: 0}\nrestat: never\n")
    put(tmp_path / "worse.yaml", "a: [\n")
    names = ["good.yaml", "open.yaml", "bad.yaml", "worse.yaml", "none.yaml"]
    said = commands.ctl("recipes", "check", *names)
    assert said.code == 2
    assert [line.partition(": ")[0] for line in said.out.splitlines()] == [
        *("good.yaml",) * 2, *("open.yaml",) * 4, *("bad.yaml",) * 2, "worse.yaml", "none.yaml",
    ]  # fmt: skip
    found = {one["path"]: one for one in told(commands, "check", *names, code=2)}
    assert [found[name]["ok"] for name in names] == [True, True, False, False, False]
    assert [one["path"] for one in found["bad.yaml"]["errors"]] == ["restat", "worker.nproc"]
    assert [one.partition(":")[0] for one in found["open.yaml"]["left"]] == ["worker.nproc", "run_id", "rendezvous"]
    assert found["bad.yaml"]["errors"][0]["origin"] == "bad.yaml:2"
    assert commands.ctl("recipes", "check", "open.yaml", "worker.nproc=0").code == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", [["shw"], ["list", "x"], ["show"], ["show", "nothing"], ["check"]])
def test_a_mistake_is_answered(commands: Commands, words: list[str]) -> None:
    said = commands.ctl("recipes", *words)
    assert (said.code, said.out) == (2, "")
    assert said.errors[0].startswith("recipe")
