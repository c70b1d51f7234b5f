"""What a node can do is found out by doing it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.invoke import Commands
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


def test_a_server_that_is_not_there_is_said_without_its_password(commands: Commands) -> None:
    told = commands.ctl("doctor", "redis://:hidden@127.0.0.1:1")
    assert told.code == 4
    assert "bad  rendezvous" in told.out
    assert "connection refused" in told.out
    assert "hidden" not in told.out
