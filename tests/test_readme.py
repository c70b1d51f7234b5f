"""README says what is so: its diagram is the compiled one, its links and names exist, its first blocks are commands."""

# ruff: noqa: E501 - names of tests are as long as what they state

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


BESIDE_TORCHRUN = {
    "its options, also": "tests/cli/test_torchrun.py::test_every_option_of_torchrun_is_taken_in_every_spelling_and_with_its_default",
    "a worker's variables": "tests/e2e/test_drop_in.py::test_a_worker_sees_the_same_variables_under_both",
    "the script's arguments": "tests/cli/test_torchrun.py::test_arguments_are_filled_in_as_torchrun_does_and_otherwise_untouched",
    "two nodes and one endpoint": "tests/e2e/test_drop_in.py::test_two_nodes_meet_at_the_endpoint",
    "a signal to the launcher": "tests/e2e/test_drop_in.py::test_a_signal_to_the_launcher_is_the_workers_and_ends_with_1",
    "what `-t`": "tests/e2e/test_drop_in.py::test_output_goes_where_torchrun_has_it",
    "`-r` and `-t` for rank 10": "tests/e2e/test_differences.py::test_ranks_of_two_digits_have_streams_too",
    "error files": "tests/e2e/test_drop_in.py::test_the_root_cause_is_handed_to_whoever_launched_us",
    "`--report=torchrun`": "tests/e2e/test_drop_in.py::test_the_report_of_a_recorded_failure_is_torchruns_to_the_letter",
    "a worker fails without": "tests/e2e/test_differences.py::test_a_failure_is_explained_without_record",
    "the launcher is killed": "tests/e2e/test_differences.py::test_workers_end_with_a_killed_launcher",
    "a failed worker has started": "tests/e2e/test_differences.py::test_what_a_failed_worker_has_started_ends_too",
    "a timer of torch's": "tests/e2e/test_differences.py::test_an_expired_timer_of_torchs_costs_a_restart_and_no_agent",
    "SIGHUP under": "tests/e2e/test_differences.py::test_a_hangup_that_is_ignored_stays_so",
    "one to two nodes": "tests/e2e/test_torch_training.py::test_a_group_grows_and_shrinks_and_grows_and_reduces_right_after_every_round",
    "DDP on two nodes": "tests/e2e/test_torch_training.py::test_ddp_on_two_nodes_goes_on_from_its_checkpoint_after_a_recorded_failure",
    "FSDP": "tests/e2e/test_torch_training.py::test_a_transformer_that_is_killed_and_resumed_learns_as_one_that_was_not",
    "a Python function": "tests/e2e/test_launch.py::test_a_function_returns_by_rank_what_its_workers_returned",
}
"""Each line of the table beside torchrun, by its beginning, and the test that shows it."""


def test_each_line_beside_torchrun_is_shown_by_a_test() -> None:
    table = README.split("| | torchrun | `orchestrate-torchrun` |")[1].split("\n\n")[0]
    lines = [line for line in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) if not line.startswith("-")]
    shown = {beginning: [line for line in lines if line.startswith(beginning)] for beginning in BESIDE_TORCHRUN}
    assert [len(found) for found in shown.values()] == [1] * len(lines)
    for proof in BESIDE_TORCHRUN.values():
        path, _, name = proof.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(), proof


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
