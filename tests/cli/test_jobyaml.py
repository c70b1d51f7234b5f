"""job.yaml runs again, from anywhere, and holds no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from orchestrator.cli import argv, resolvers
from orchestrator.cli.compose import compose
from orchestrator.cli.job import Job, check
from orchestrator.cli.jobyaml import job_yaml
from orchestrator.cli.yaml12 import read
from tests.cli.invoke import Commands


def job(*words: str) -> Job:
    line = argv.parse(list(words))
    made = resolvers.register()
    composed = compose(line)
    return check(composed.cfg, line, made, composed.problems)


def plan(commands: Commands, *words: str) -> dict[str, Any]:
    said = commands.ctl("plan", "--json", *words)
    assert said.err == ""
    planned: dict[str, Any] = json.loads(said.out)
    return {key: planned[key] for key in ("run_id", "node", "groups", "rendezvous", "stop", "logs", "notes")}


CASES = [
    ["run_id=r", "recipe=hello", "worker.nproc=2", "restart=always", "stop.signal=INT"],
    [
        "run_id=r",
        "restart=never",
        "logs=inherit",
        "--",
        "true",
        "a b",
        "${x}",
        "\\${y}",
        "2:4",
        "022",
        "1e-3",
        "yes",
        "",
    ],
    ["run_id=r", "rendezvous.url=redis://h:1", "worker.flags={lr: 0.1, amp: true}", "worker.env.N=null", "--", "true"],
    [
        "run_id=r",
        "worker.env.A=${worker.nproc}",
        "restart.rules=[{exit_codes: [3, 64-78], action: fatal}]",
        "--",
        "true",
    ],
]


@pytest.mark.parametrize("words", CASES)
def test_it_composes_to_the_same_job_in_another_directory(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    before = plan(commands, "worker.cwd=/", *words)
    text = job_yaml(job("worker.cwd=/", *words))
    other = tmp_path / "other"
    other.mkdir()
    (other / "job.yaml").write_text(text)
    monkeypatch.chdir(other)
    after = plan(commands, "job.yaml")
    before["logs"]["dir"] = after["logs"]["dir"]
    assert after == before


def test_the_script_is_absolute_wherever_it_stood(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "s.py").touch()
    data = read(job_yaml(job("--", "python", "s.py", "--x")), "job.yaml").data
    assert data["worker"]["cmd"] == ["python", str(tmp_path / "s.py"), "--x"]
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "s.py").touch()
    (tmp_path / "x" / "r.yaml").write_text("worker:\n  cmd: python s.py '${role}'\n")
    data = read(job_yaml(job("x/r.yaml", "worker.cmd=python s.py")), "job.yaml").data
    assert data["worker"]["cmd"] == f"python {tmp_path}/s.py"


def test_a_command_in_one_string_keeps_its_interpolation(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "s.py").touch()
    (tmp_path / "r.yaml").write_text("worker:\n  cmd: python s.py '--x=${role}'\n")
    data = read(job_yaml(job("r.yaml")), "job.yaml").data
    assert data["worker"]["cmd"] == f"python {tmp_path}/s.py '--x=${{role}}'"


def test_what_was_made_up_is_made_up_again(commands: Commands) -> None:
    data = read(job_yaml(job("--", "true")), "job.yaml").data
    assert data["run_id"].startswith("${orchestrate.run_id:")
    assert "hydra" not in data


def test_literal_secrets_come_from_the_environment(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter-outer")
    words = ["worker.env.API_KEY=hunter-typed", "rendezvous.url=redis://me:hunter-url@h:1", "worker.env.PIN_KEY=123"]
    words += [
        "worker.flags.wandb_token=hunter-flag",
        "run_id=r",
        "--",
        "true",
        "--token=hunter-outer",
        "\\hunter-outer",
    ]
    before = job(*words)
    text = job_yaml(before)
    assert "hunter" not in text
    assert "# It needs these variables: API_KEY, HF_TOKEN, PIN_KEY, REDIS_PASSWORD, WANDB_TOKEN\n" in text
    data = read(text, "job.yaml").data
    assert data["rendezvous"]["url"] == "redis://me:${oc.env:REDIS_PASSWORD}@h:1"
    (tmp_path / "job.yaml").write_text(text)
    given = {"API_KEY": "hunter-typed", "REDIS_PASSWORD": "hunter-url", "PIN_KEY": "123", "WANDB_TOKEN": "hunter-flag"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    after = job("job.yaml")
    assert after.spec == before.spec


def test_it_is_the_unresolved_job(commands: Commands) -> None:
    found = job("worker.env.A=${oc.env:HOME}", "--", "true")
    data = read(job_yaml(found), "job.yaml").data
    assert data["worker"]["env"]["A"] == "${oc.env:HOME}"
    assert OmegaConf.to_container(found.cfg, resolve=False)["worker"]["env"]["A"] == "${oc.env:HOME}"  # type: ignore[index,call-overload]


def test_every_password_of_a_url_comes_from_a_variable_of_its_own() -> None:
    url = "redis+sentinel://me:hunter-a@h:1/main?sentinel_username=s&sentinel_password=hunter-b"
    text = job_yaml(job("nodes=2", "run_id=r", f"rendezvous.url={url}", "--", "true"))
    assert "hunter" not in text
    assert "# It needs these variables: REDIS_PASSWORD, REDIS_SENTINEL_PASSWORD\n" in text
