"""README says what is so: its diagram is the compiled one, its links and names exist, its first blocks are commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

from orchestrator.core.graph import mermaid
from orchestrator.core.table import build
from orchestrator.errors import ExitCode
from tests.core.specs import group

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_diagram_is_that_of_the_default_configuration() -> None:
    assert blocks("mermaid") == [mermaid(build(group()))]


def test_the_first_two_sh_blocks_set_up_and_run() -> None:
    first, second = blocks("sh")[:2]
    assert first.rstrip().endswith("orchestrate recipe=hello")
    assert ".venv/bin/pytest" in second
    assert all(block.count("\n") == 1 and "python3 -m venv" in block for block in (first, second))


def test_every_recipe_is_listed() -> None:
    shipped = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert shipped == set(re.findall(r"^\| `(\w+)` \|", README.split("## Recipes")[1].split("##")[0], re.MULTILINE))


def test_every_exit_code_is_listed() -> None:
    listed = README.split("| exit code | means |")[1].split("\n\n")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", listed, re.MULTILINE)} == {int(code) for code in ExitCode}


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"`((?:tests|conf|recipes|orchestrator)/[\w/.]*)`", README):
        assert (ROOT / name).exists(), name


def test_the_mistake_that_is_shown_is_answered_as_shown(tmp_path: Path) -> None:
    shown = re.search(r"^    \$ orchestrate (.*)\n((?:    error: .*\n)+)", README, re.MULTILINE)
    assert shown is not None
    command = [sys.executable, "-m", "orchestrator", *shlex.split(shown[1])]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, textwrap.dedent(shown[2]))
    assert list(tmp_path.iterdir()) == []
