"""``orchestratectl plan`` and ``graph``: everything is shown, with its origin, and nothing is started."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.paths import data_dir
from orchestrator.core.affinity import ranges
from orchestrator.core.verify import verify
from tests.cli.invoke import Commands


def plan(commands: Commands, *words: str) -> dict[str, Any]:
    said = commands.ctl("plan", "--json", *words)
    assert (said.code, said.err) == (0, "")
    planned: dict[str, Any] = json.loads(said.out)
    return planned


def test_commands_and_environment_of_each_worker(commands: Commands) -> None:
    workers = plan(commands, "worker.nproc=2", "worker.env.N=null", "--", "echo", "__rank__/__world_size__")["groups"][
        0
    ]["workers"]
    assert [worker["cmd"] for worker in workers] == [["echo", "0/2"], ["echo", "1/2"]]
    assert [worker["env"]["LOCAL_RANK"] for worker in workers] == ["0", "1"]
    assert workers[0]["env"]["MASTER_ADDR"] == "(known at the start)"
    assert workers[0]["unset"] == ["N"]


def test_limits_and_processors_of_each_worker(commands: Commands) -> None:
    words = [
        "worker.nproc=2",
        "worker.affinity=spread",
        "worker.limits={nofile: '64:128', core: 0}",
        "--",
        "true",
    ]
    group = plan(commands, *words)["groups"][0]
    assert group["limits"] == {"nofile": [64, 128], "core": [0, 0]}
    shares = [set(worker["cpus"]) for worker in group["workers"]]
    assert set.union(*shares) <= os.sched_getaffinity(0)
    said = commands.ctl("plan", *words).out
    assert "  limit nofile: 64, hard 128\n  limit core: 0\n" in said
    assert f"  local rank 1 on processors {ranges(shares[1])}: true\n" in said


def test_the_way_to_what_workers_share_is_not_shown(commands: Commands) -> None:
    planned = plan(commands, "run_id=j", "rendezvous.url=redis://:hunter2@h:1/0", "--", "true")
    assert planned["groups"][0]["workers"][0]["env"]["ORCHESTRATOR_STORE"] == "***"
    assert "hunter2" not in json.dumps(planned)


def test_each_setting_has_its_origin(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "worker:\n  cmd: 'true'\n  env:\n    A: 1\nrestart:\n  kind: always\n  budget: {max: 7}\n"
    )
    settings = plan(
        commands, "r.yaml", "worker.nproc=3", "restart.backoff={max_s: 9}", "stop.grace_s=1", "stop.grace_s=2"
    )["settings"]
    assert {path: one["origin"] for path, one in settings.items()} == {
        "worker.cmd": "r.yaml:2",
        "worker.env.A": "r.yaml:4",
        "worker.nproc": "override worker.nproc=3",
        "restart.kind": "r.yaml:6",
        "restart.budget.max": "r.yaml:7",
        "restart.backoff.max_s": "override restart.backoff={max_s: 9}",
        "stop.grace_s": "override stop.grace_s=2",
    }


def test_the_origin_of_a_default_is_the_file_in_conf(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NODEID", "first")
    said = commands.orchestrate("--", "true")
    file = data_dir("conf") / "config.yaml"
    number = next(at for at, line in enumerate(file.read_text().splitlines(), 1) if "SLURM_NODEID" in line)
    fact = "node.rank: 'first' is not a whole number; allowed: a whole number from 0"
    assert said.errors == [f"{fact} [{file}:{number}]"]


def test_the_text_says_the_same(commands: Commands) -> None:
    limits = ("logs.max_bytes=100000", "logs.console_bytes_per_s=5000", "stop.preempt_signals=[TERM]")
    said = commands.ctl("plan", "restart.rules=[{exit_codes: [3], action: fatal}]", *limits, "--", "true")
    assert said.code == 0
    for part in ("local rank 0: true", "at most 3 restarts in the whole run", "rule 0 ends the run: exit code 3",
                 "SIGTERM ends the agent with exit code 75", "go to", "BACKOFF", "PYTHONUNBUFFERED=1",
                 "of each file the newest 100000 bytes; at most 5000 bytes/s shown"):  # fmt: skip
        assert part in said.out


def test_the_graph_is_the_jobs_own(commands: Commands) -> None:
    with_backoff, without = (commands.ctl("graph", *words, "--", "true").out for words in ([], ["restart=never"]))
    assert with_backoff.startswith("stateDiagram-v2\n")
    assert "BACKOFF" in with_backoff
    assert "BACKOFF" not in without
    drawn = json.loads(commands.ctl("graph", "--json", "--", "true").out)
    assert drawn["default"]["mermaid"] == with_backoff
    assert {row["source"] for row in drawn["default"]["rows"]} >= {"INIT", "BACKOFF"}


def test_nothing_is_made_and_no_name_is_taken(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert plan(commands, "run_id=r", "--", "true")["node"]["name"].endswith(".0")
    assert list(tmp_path.iterdir()) == []


def test_problems_end_with_2_and_the_same_lines(commands: Commands) -> None:
    words = ["worker.nproc=0", "restart=nevr", "--", "true"]
    assert commands.ctl("plan", *words) == commands.orchestrate(*words)
    assert commands.ctl("graph", *words).code == 2


def test_flags_of_the_command_itself_are_told_apart(commands: Commands) -> None:
    assert commands.ctl("plan", "-m", "--", "true").errors == ["--multirun: is for orchestrate only; leave it out"]
    assert plan(commands, "--", "true", "--json")["groups"][0]["workers"][0]["cmd"] == ["true", "--json"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["restart=never"],
        ["restart=always"],
        ["restart.backoff={initial_s: 0, max_s: 0}"],
        ["stop.preempt_signals=[USR1]"],
        ["nodes=2:4", "run_id=r", "rendezvous.url=redis://h"],
    ],
)
def test_the_machine_of_any_job_is_sound(commands: Commands, words: list[str]) -> None:
    from orchestrator.cli import plan as planner  # noqa: PLC0415

    job = planner.checked([*words, "--", "true"])
    assert [verify(planner.machine(job, group)) for group in job.spec.groups] == [[]]


def test_a_url_alone_chooses_redis_and_leaves_nothing_to_be_noted(commands: Commands) -> None:
    assert plan(commands, "rendezvous.url=redis://h", "--", "true")["notes"] == []
    noted = plan(commands, "rendezvous.url=redis://h", "rendezvous.password=x", "--", "true")["notes"]
    assert [note.partition(":")[0] for note in noted] == ["rendezvous.password"]
