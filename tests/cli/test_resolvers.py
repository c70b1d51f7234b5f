"""Made-up identities: the run's id and the node's name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import argv, resolvers
from orchestrator.cli.compose import compose
from orchestrator.cli.job import check, claim
from tests.cli.invoke import Commands

HOLD = """
import sys
from orchestrator.cli.resolvers import claim_number
print(claim_number(sys.argv[1]), flush=True)
sys.stdin.read()
"""


def name_of(commands: Commands, *words: str) -> str:
    name: str = json.loads(commands.ctl("plan", "--json", *words, "--", "true").out)["node"]["name"]
    return name


def claimed(*words: str) -> tuple[str, str]:
    line = argv.parse([*words, "--", "true"])
    made = resolvers.register()
    composed = compose(line)
    spec = claim(check(composed.cfg, line, made), line, made).spec
    return spec.node.name, spec.run_dir


def test_a_run_id_is_readable_and_sorts_and_is_never_made_up_twice(commands: Commands) -> None:
    ids = [json.loads(commands.ctl("plan", "--json", "--", "true").out)["run_id"] for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", one) for one in ids)
    assert [one[:15] for one in ids] == sorted(one[:15] for one in ids)


def test_one_job_has_one_run_id_wherever_it_is_used(commands: Commands) -> None:
    planned = json.loads(commands.ctl("plan", "--json", "worker.env.A=${run_id}", "--", "true").out)
    assert planned["groups"][0]["workers"][0]["env"]["A"] == planned["run_id"]
    assert f"/{planned['run_id']}/" in planned["run_dir"]


def test_on_slurm_it_is_the_step(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert json.loads(commands.ctl("plan", "--json", "--", "true").out)["run_id"] != "17"
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    words = ["nodes=2", "rendezvous.url=redis://h", "--", "true"]
    assert json.loads(commands.ctl("plan", "--json", *words).out)["run_id"] == "17.0"


def test_agents_of_one_run_get_the_lowest_free_number(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for run in ("r", "other")
    ]
    try:
        for holder in holders:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "0\n"
        name, run_dir = claimed("run_id=r")
        assert name == f"{resolvers.host_name()}.1"
        assert run_dir.endswith(f"/r/{name}")
        assert claimed("run_id=r")[0] == f"{resolvers.host_name()}.2"
        assert claimed("run_id=r", "node.name=mine")[0] == "mine"
        assert claimed()[0] == f"{resolvers.host_name()}.0"
    finally:
        for holder in holders:
            holder.communicate()
    assert resolvers.claim_number("r") == 0


def test_a_name_that_is_free_again_is_given_again(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", HOLD, "r"], input="", capture_output=True, text=True, check=True)
        assert done.stdout == "0\n"


def watchdog_of(commands: Commands, *words: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(commands.ctl("plan", "--json", *words, "--", "true").out)["groups"][0][
        "watchdog"
    ]
    return found


def test_torchruns_variables_choose_the_watchdog_unless_somebody_else_does(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert watchdog_of(commands)["kind"] == "observe"
    monkeypatch.setenv("TORCHELASTIC_TIMER_FILE", str(tmp_path / "pipe"))
    assert watchdog_of(commands)["kind"] == "observe"
    monkeypatch.setenv("TORCHELASTIC_ENABLE_FILE_TIMER", "1")
    chosen = watchdog_of(commands)
    assert (chosen["kind"], chosen["path"]) == ("timer", str(tmp_path / "pipe"))
    assert watchdog_of(commands, "watchdog=heartbeat")["kind"] == "heartbeat"
    assert watchdog_of(commands, "recipe=hang")["kind"] == "sections"
    monkeypatch.setenv("TORCHELASTIC_ENABLE_FILE_TIMER", "0")
    assert watchdog_of(commands)["kind"] == "observe"
