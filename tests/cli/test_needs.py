"""What a recipe needs is looked up before anything runs, and told at once with what to do about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli import needs
from orchestrator.config.needs import NeedKind, RecipeNeed, parse_need
from tests.cli.invoke import Commands


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("torch", RecipeNeed(NeedKind.PYTHON, "torch")),
        ("scikit-learn", RecipeNeed(NeedKind.PYTHON, "scikit-learn")),
        ("torch >= 2.6, < 3", RecipeNeed(NeedKind.PYTHON, "torch", ">=2.6,<3")),
        ("ruamel.yaml~=0.18", RecipeNeed(NeedKind.PYTHON, "ruamel.yaml", "~=0.18")),
        ("file:data.csv", RecipeNeed(NeedKind.FILE, "data.csv")),
        ("file:a b:c", RecipeNeed(NeedKind.FILE, "a b:c")),
        ("./data.csv", RecipeNeed(NeedKind.FILE, "./data.csv")),
        ("~/data", RecipeNeed(NeedKind.FILE, "~/data")),
        ("env:HF_TOKEN", RecipeNeed(NeedKind.ENV, "HF_TOKEN")),
        ("cmd:nvidia-smi", RecipeNeed(NeedKind.CMD, "nvidia-smi")),
    ],
)
def test_a_need_is_one_of_four(text: str, means: RecipeNeed) -> None:
    assert parse_need(text) == means


@pytest.mark.parametrize("text", ["", "env:", "env:A-B", "env:A=1", "cmd:", "cmd:a b", "file:", "a b", "torch>2 or 3", "torch>=", "ähm", "-r", "gpu:2", "a\0b", "${a}", "torch; rm"])  # fmt: skip  # noqa: E501 - words
def test_what_is_no_need_is_said(commands: Commands, tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(json.dumps({"recipe": {"needs": ["json", text]}, "worker": {"cmd": "true"}}))
    said = commands.orchestrate("r.yaml")
    assert said.code == 2
    assert said.errors[-1].startswith("recipe.needs[1]: ")
    assert said.errors[-1].endswith(" [r.yaml:1]")


RECIPE = """\
recipe:
  needs: [no-such-package, {needs}]
worker: {{cmd: [touch, canary], env: {{TOKEN: "${{oc.env:NO_SUCH}}"}}}}
"""


def test_all_that_is_missing_is_one_error_and_nothing_runs(commands: Commands, tmp_path: Path) -> None:
    text = "'hydra-core>=99', 'other_package', env:NO_SUCH, cmd:no-such-program, file:no.csv, /no/such"
    (tmp_path / "r.yaml").write_text(RECIPE.format(needs=text))
    said = commands.orchestrate("r.yaml")
    (error,) = said.errors
    assert said.code == 2
    assert error.startswith("recipe.needs: no-such-package is not installed, hydra-core is 1.")
    for part in (
        "pip install no-such-package 'hydra-core>=99' other_package, ",
        "NO_SUCH is not set, no-such-program is not on the PATH, ",
        "no.csv is not there, neither here nor beside the recipe, /no/such is not there; ",
        "export NO_SUCH=VALUE, install no-such-program, provide no.csv, provide /no/such",
        "; or recipe.needs=[] to try without [r.yaml:2]",
    ):
        assert part in error
    assert not (tmp_path / "canary").exists()


def test_needs_that_are_met_say_nothing(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "beside.csv").touch()
    (tmp_path / "here.csv").touch()
    monkeypatch.setenv("SUCH", "1")
    needed = "'hydra-core>=1.3', yaml, os, importlib.metadata, env:SUCH, cmd:sh, file:beside.csv, file:here.csv, /tmp"
    (folder / "r.yaml").write_text(f"recipe: {{needs: [{needed}]}}\nworker: {{cmd: 'true'}}\n")
    said = commands.ctl("plan", "--json", "x/r.yaml")
    planned = json.loads(said.out)["needs"]
    assert [one["met"] for one in planned] == [True] * 9
    assert f"file:{folder}/beside.csv" in [one["need"] for one in planned]
    assert commands.orchestrate("x/r.yaml").code == 0


def test_plan_tells_what_is_not_met_and_goes_on(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("recipe: {needs: [yaml, no_such]}\nworker: {cmd: 'true'}\n")
    said = commands.ctl("plan", "r.yaml")
    assert said.code == 0
    assert "\nneeds\n  yaml: met\n  no_such: no_such is not installed; pip install no_such\n" in said.out


def test_needs_of_a_base_count_and_the_command_line_may_do_without(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("recipe:\n  needs:\n  - json\n  - no_such\n  - 'a b'\nworker: {cmd: 'true'}\n")
    (tmp_path / "r.yaml").write_text("defaults: [base]\nrecipe: {needs: env:NO_SUCH}\n")
    said = commands.orchestrate("r.yaml")
    assert [line.rpartition(" [")[2] for line in said.errors] == ["r.yaml:2]", "base.yaml:5]"]
    assert "no_such is not installed, NO_SUCH is not set" in said.errors[0]
    assert commands.orchestrate("r.yaml", "recipe.needs=[]").code == 0


def test_a_directory_with_the_name_of_a_module_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchlike").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "__init__.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    (tmp_path / "real" / "inner.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [one.met for one in needs.looked_up(["torchlike", "real", "real.inner", "real.other"])] == [False, True, True, False]  # fmt: skip  # noqa: E501 - a table
    assert not (tmp_path / "canary").exists(), "it was imported"
