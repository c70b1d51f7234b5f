"""What a node can do is found out by doing it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.cli import doctor
from tests.cli.invoke import Commands
from tests.e2e.harness import external_server
from tests.edge import servers
from tests.edge.servers import Server

server = servers.server


def test_a_fit_node_runs_a_job_and_reaches_its_server(commands: Commands, server: Server) -> None:
    told = commands.ctl("doctor", "--json", server.url)
    marks = {one["what"]: one["mark"] for one in json.loads(told.out)}
    assert told.code == 0
    assert marks["a job"] == "ok"
    assert marks["rendezvous"] in ("ok", "note")  # slow, when the machine is
    assert "containment" in marks


def test_a_node_that_cannot_run_a_job_is_unfit(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no `true`
    told = commands.ctl("doctor")
    assert told.code == 4
    assert "bad  a job" in told.out


@pytest.mark.parametrize(
    ("script", "fact"),
    [
        ("#!/bin/sh\nexec sleep 600", "nvidia-smi has not answered after 0.2 s; a GPU or its driver hangs: see dmesg"),
        ("#!/bin/sh\necho 'No devices' >&2; exit 9", "nvidia-smi fails: No devices; see dmesg"),
        ("#!/no/such/program", "nvidia-smi cannot be run: No such file or directory"),
    ],
)
def test_gpus_that_do_not_answer_make_a_node_unfit(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, fact: str
) -> None:
    asked = tmp_path / "nvidia-smi"
    asked.write_text(script)
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "GPUS_WITHIN_S", 0.2)
    told = commands.ctl("doctor")
    assert told.code == 4
    assert f"bad  gpus                  {fact}\n" in told.out


def test_a_password_may_come_from_the_environment(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    with external_server("s3cret") as guarded:
        bare = guarded.url.replace(":s3cret@", "")
        assert "bad  rendezvous" in commands.ctl("doctor", bare).out
        monkeypatch.setenv("REDIS_PASSWORD", "s3cret")
        assert "rendezvous            answers" in commands.ctl("doctor", bare).out
        assert "there is no run" in commands.ctl("events", bare, "none").err


def test_a_server_that_is_not_there_is_said_without_its_password(commands: Commands) -> None:
    told = commands.ctl("doctor", "redis://:hidden@127.0.0.1:1")
    assert told.code == 4
    assert "bad  rendezvous" in told.out
    assert "connection refused" in told.out
    assert "hidden" not in told.out
