"""What a run has left, read back by orchestratectl: its events, its logs, its report."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.invoke import Commands
from tests.edge import servers
from tests.edge.servers import Server

server = servers.server

FAILS = ("restart.budget.max=1", "restart.backoff.initial_s=0", "logs=files", "worker.nproc=2")
SCRIPT = "echo out $RANK; printf 'line\\n%.0s' 1 2 3; echo err >&2; exit $((RANK * 3))"


@pytest.fixture
def run_dir(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is left of a run of two workers, the second of which fails twice."""
    monkeypatch.chdir(tmp_path)
    assert commands.orchestrate("run_id=r1", "node.name=a", *FAILS, "--", "sh", "-c", SCRIPT).code == 1
    return Path("runs/r1")


def test_a_report_says_what_the_run_said_last(commands: Commands, run_dir: Path) -> None:
    told = commands.ctl("report", str(run_dir))
    assert told.code == 0
    assert told.out.startswith("failed after ")
    assert "(2 rounds, 1 restart): restart.budget is spent (1 restarts) [exit code 1]" in told.out
    assert "root cause: rank 1 on node a" in told.out
    assert json.loads(commands.ctl("report", "--json", str(run_dir / "a")).out) == json.loads(
        (run_dir / "a/result.json").read_text()
    )


def test_the_latest_run_is_meant_when_none_is_named(commands: Commands, run_dir: Path) -> None:
    assert commands.orchestrate("run_id=r2", "node.name=b", "logs=files", "--", "true").code == 0
    assert commands.ctl("report").out.startswith("succeeded in ")
    assert "root cause" in commands.ctl("report", str(run_dir)).out


def test_events_are_the_journal_for_people_and_for_programs(commands: Commands, run_dir: Path) -> None:
    journal = (run_dir / "a/events.jsonl").read_text()
    assert [json.loads(line) for line in commands.ctl("events", "--json", str(run_dir)).out.splitlines()] == [
        json.loads(line) for line in journal.splitlines()
    ]
    lines = commands.ctl("events", str(run_dir)).out.splitlines()
    assert len(lines) == len(journal.splitlines())
    assert any("  a  [1] restart_decided" in line and "cause=rank 1 on node a" in line for line in lines)


def test_nodes_are_told_together_in_order_of_time_and_what_is_torn_is_left_out(
    commands: Commands, run_dir: Path
) -> None:
    other = run_dir / "b"
    other.mkdir()
    first = json.loads((run_dir / "a/events.jsonl").read_text().splitlines()[0])
    records = [{**first, "node": "b", "ts": first["ts"] + at, "event": f"e{at}"} for at in (-1, 0.0001, 9e9)]
    torn = json.dumps(records[0])[:20]
    other.joinpath("events.jsonl").write_text(
        "".join(f"{line}\n" for line in ["{", "[]", *map(json.dumps, records)]) + torn
    )
    told = commands.ctl("events", "--json", str(run_dir))
    found = [json.loads(line) for line in told.out.splitlines()]
    assert [one["ts"] for one in found] == sorted(one["ts"] for one in found)
    assert {one["event"] for one in found if one["node"] == "b"} == {"e-1", "e0.0001", "e9000000000.0"}
    assert told.err == "2 lines could not be read\n"
    assert "has not ended on b" in commands.ctl("report", str(run_dir)).err


def test_followed_events_end_with_the_run(tmp_path: Path) -> None:
    job = [sys.executable, "-m", "orchestrator", "run_id=r3", "node.name=a", "logs=files", "--", "sh", "-c"]
    with subprocess.Popen([*job, "while [ ! -e go ]; do sleep 0.02; done"], cwd=tmp_path) as running:
        while not (tmp_path / "runs/r3/a/events.jsonl").exists():
            time.sleep(0.02)
        command = [sys.executable, "-m", "orchestrator.cli.ctl", "events", "--follow", "runs/r3"]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as follows:
            assert follows.stdout is not None
            seen = [follows.stdout.readline()]
            (tmp_path / "go").touch()
            seen += follows.stdout.readlines()
        assert running.wait() == 0
    assert follows.returncode == 0
    assert "to=SUCCEEDED" in seen[-1]


def test_logs_are_those_of_the_last_round_unless_another_is_asked_for(commands: Commands, run_dir: Path) -> None:
    def listed(*words: str) -> list[tuple[int, int, str]]:
        files = json.loads(commands.ctl("logs", "--json", *words, str(run_dir)).out)
        return [(one["round"], one["rank"], one["stream"]) for one in files]

    both = [(rank, stream) for rank in (0, 1) for stream in ("stderr", "stdout")]
    assert listed() == [(2, *one) for one in both]
    assert listed("--round", "1") == [(1, *one) for one in both]
    assert listed("--round", "0") == [(number, *one) for number in (1, 2) for one in both]
    assert listed("--rank", "1", "--stream", "stdout") == [(2, 1, "stdout")]
    assert "holds no such logs" in commands.ctl("logs", "--rank", "7", str(run_dir)).err


@pytest.mark.parametrize(("tail", "text"), [("2", "line\nline\n"), ("4", "out 1\nline\nline\nline\n"), ("0", "")])
def test_a_tail_is_the_last_lines(run_dir: Path, tail: str, text: str) -> None:
    command = [sys.executable, "-m", "orchestrator.cli.ctl", "logs", "--rank=1", "--stream=stdout", "--tail", tail]
    shown = subprocess.run([*command, str(run_dir)], capture_output=True, text=True, check=True).stdout
    head, _, rest = shown.partition("\n")
    assert head == f"==> default round 2, rank 1, stdout: {run_dir}/a/logs/default/2/1/stdout.log"
    assert rest == text


@pytest.mark.parametrize("lines", [1, 2, 5000, 20000, 30000])
def test_a_tail_of_a_long_log_is_found_from_its_end(run_dir: Path, lines: int) -> None:
    path = run_dir / "a/logs/default/2/1/stdout.log"
    path.write_bytes(b"".join(b"%d %s\n" % (number, b"x" * (number % 97)) for number in range(20000)) + b"unended")
    command = [sys.executable, "-m", "orchestrator.cli.ctl", "logs", "--rank=1", "--stream=stdout", f"--tail={lines}"]
    shown = subprocess.run([*command, str(run_dir)], capture_output=True, check=True).stdout
    wanted = path.read_bytes().splitlines(keepends=True)[-lines:]
    assert shown.partition(b"\n")[2] == b"".join(wanted) + b"\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("report",), "there is no run here"),
        (("events", "nowhere"), "is no directory"),
        (("logs", "."), "holds no events.jsonl"),
    ],
)
def test_where_there_is_no_run_the_way_to_one_is_said(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told = commands.ctl(*words)
    assert (told.code, told.out) == (2, "")
    assert says in told.err


def test_the_server_tells_of_a_run_without_its_files(
    commands: Commands, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"rendezvous.url={server.url}"
    assert commands.orchestrate("run_id=far", "node.name=a", url, *FAILS, "--", "sh", "-c", SCRIPT).code == 1
    for follow in ((), ("--follow",)):
        told = commands.ctl("events", "--json", *follow, server.url, "far").out.splitlines()
        names = [(one["round"], one["event"]) for one in map(json.loads, told)]
        names = [one for one in names if one[1] not in ("workers_up", "all_left")]
        assert names == [(1, "round_settled"), (1, "restart_decided"), (2, "round_settled"), (None, "run_closed")]
    assert "root cause: rank 1 on node a" in commands.ctl("report", server.url, "far").out
    assert json.loads(commands.ctl("report", "--json", server.url, "far").out)["exit_code"] == 1
    assert "there is no run 'near'" in commands.ctl("events", server.url, "near").err
