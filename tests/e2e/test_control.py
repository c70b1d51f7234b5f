"""A run from outside: what an operator sees and wishes, and a node that takes the job from the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import SLEEP, Launch, external_server, in_round, python, ranks, until
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e

PROMPT_S = 1.0  # within which a wish has its effect
ELASTIC = ("nodes=1:2", "rendezvous.last_call_s=0.2")


def ctl(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli.ctl", *words]
    return subprocess.run(command, cwd=cwd, env=dict(os.environ), capture_output=True, text=True, check=False)


def answer(*words: str) -> dict[str, Any]:
    done = ctl(words[0], "--json", *words[1:])
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def took_s(run: Launch, since: float, event: str, **fields: object) -> float:
    """From an instant of the wall clock to the next record of an event after it."""

    def found() -> float | None:
        return next((record["ts"] for record in run.events(event, **fields) if record["ts"] >= since), None)

    return until(found, f"{event} {fields}") - since


def test_status_names_every_member_and_outlives_the_run(nodes: Nodes, server: Server) -> None:
    a, b = (nodes.start(name, "nodes=2", "worker.nproc=2", *SLEEP) for name in "ab")
    in_round(a, 2)
    in_round(b, 2)
    done = ctl("status", server.url, "j1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "run j1, group default: round 1 (first)\n  2 of 2 nodes, world size 4\n" in done.stdout
    (group,) = answer("status", server.url, "j1")["groups"]
    assert [(one["node"], one["nproc"]) for one in sorted(group["members"], key=lambda one: one["node"])] == [
        ("a", 2),
        ("b", 2),
    ]
    assert answer("stop", server.url, "j1")["groups"]["default"]["granted"]
    assert (a.wait(), b.wait()) == (143, 143)
    after = answer("status", server.url, "j1")
    assert (after["outcome"], after["exit_code"]) == ("stopped", 143)
    assert nodes.start("c", "nodes=2", *SLEEP).wait() == 143, "whoever comes now ends with the run's code"


def test_a_stop_reaches_workers_within_a_second(nodes: Nodes, server: Server) -> None:
    a, b = (nodes.start(name, "nodes=2", *SLEEP) for name in "ab")
    in_round(a, 2)
    in_round(b, 2)
    wished = time.time()
    assert ctl("stop", server.url, "j1").returncode == 0
    for run in (a, b):
        assert (
            took_s(run, wished, "worker_exited", sent_by_us=True) < PROMPT_S + 0.5
        )  # of which 0.5 to start the command
        assert run.wait() == 143
        assert (run.result["state"], run.result["reason"]) == ("STOPPED", "stop wished")


def test_a_wished_restart_starts_all_again_with_the_same_ranks_and_no_charge(nodes: Nodes, server: Server) -> None:
    a, b = (nodes.start(name, "nodes=2", *SLEEP) for name in "ab")
    first = in_round(a, 2)
    in_round(b, 2)
    before = (ranks(a, first), ranks(b, first))
    assert "begins a new round" in ctl("restart", server.url, "j1").stdout
    second = in_round(a, 2, after=first)
    assert in_round(b, 2, after=first) == second
    assert (ranks(a, second), ranks(b, second)) == before
    assert a.events("restart_decided") == []
    ctl("stop", server.url, "j1")
    assert (a.wait(), b.wait()) == (143, 143)
    assert a.result["restarts"] == 0


def test_a_drained_node_ends_with_0_and_the_others_go_on(nodes: Nodes, server: Server) -> None:
    a, b = (nodes.start(name, *ELASTIC, *SLEEP) for name in "ab")
    first = in_round(a, 2)
    in_round(b, 2)
    wished = time.time()
    done = ctl("drain", "b", server.url, "j1")
    assert (done.returncode, done.stdout) == (0, "group default is being left by node b\n")
    assert took_s(b, wished, "transition", on="drained") < PROMPT_S + 0.5
    assert b.wait() == 0
    assert (b.result["state"], b.result["reason"]) == ("STOPPED", "drained")
    second = in_round(a, 1, after=first)
    assert ranks(a, second) == {0}
    assert a.events("restart_decided") == []
    assert ctl("drain", server.url, "j1", "b").returncode == 3, "it is gone"
    ctl("stop", server.url, "j1")
    assert a.wait() == 143


def test_a_watch_prints_what_changes_and_ends_with_the_run(nodes: Nodes, server: Server) -> None:
    a = nodes.start("a", *SLEEP)
    in_round(a, 1)
    command = [sys.executable, "-m", "orchestrator.cli.ctl", "status", "--watch", server.url, "j1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline() == "run j1, group default: round 1 (first)\n"
        ctl("stop", server.url, "j1")
        rest = watch.stdout.read()
        assert watch.wait() == 0
    assert rest.count("run j1, group default: ") == 1
    assert "stopped, exit code 143: stop wished" in rest
    assert a.wait() == 143


@pytest.mark.parametrize(
    "words",
    [["status"], ["status", "redis://h"], ["drain", "redis://h", "j1"], ["stop", "redis://h", "j1", "--", "rm"]],
)
def test_what_a_command_does_not_take_is_a_usage_error(words: list[str]) -> None:
    done = ctl(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"usage: orchestratectl {words[0]} ")


def test_a_run_or_a_server_that_is_not_there_ends_with_3(server: Server) -> None:
    done = ctl("status", server.url, "nosuch")
    assert done.returncode == 3
    assert done.stderr.startswith("error: there is no run 'nosuch' on the server at redis://127.0.0.1:")
    refused = ctl("status", "unix:///nonexistent", "j1")
    assert refused.returncode == 3
    assert "no server at unix:///nonexistent within 5 s: " in refused.stderr


def test_another_job_is_refused_and_told_what_differs(nodes: Nodes) -> None:
    a = nodes.start("a", *ELASTIC, *SLEEP)
    in_round(a, 1)
    b = nodes.start("b", *ELASTIC, "restart.budget.max=9", "worker.nproc=2", *python("pass"))
    assert b.wait() == 3
    assert "run j1 has another job than this agent: restart.budget.max: 9 here, 3 there; worker.cmd: " in b.stderr
    assert "nproc" not in b.stderr, "that is a node's own"
    assert b.events("worker_started") == []
    assert a.process.poll() is None


def test_a_node_joins_with_the_job_that_the_run_has(launch: Launcher, server: Server, tmp_path: Path) -> None:
    job = tmp_path / "recipe" / "job.yaml"
    job.parent.mkdir()
    (job.parent / "say.py").write_text("import os; print(os.environ['RANK'], os.environ['GREETING'])\n")
    job.write_text(
        f"""\
recipe: {{name: say}}
nodes: 2
worker: {{cmd: ['{sys.executable}', say.py], nproc: 2, env: {{GREETING: "${{oc.env:WHO}} ${{node.name}}"}}}}
logs: {{kind: tee, prefix: ''}}
"""
    )
    a = launch(str(job), "run_id=j1", f"rendezvous.url={server.url}", "node.name=a", name="a", env={"WHO": "me"})
    a.await_event("transition", to="RENDEZVOUS")
    until(lambda: ctl("status", server.url, "j1").returncode == 0, "the job is published")
    elsewhere = tmp_path / "b"
    elsewhere.mkdir()
    own = ("node.name=b", "worker.nproc=1", "logs.prefix=''")
    before = {**os.environ, "WHO": "you"}
    command = [sys.executable, "-m", "orchestrator.cli.ctl", "join", server.url, "j1", *own]
    b = subprocess.run(command, cwd=elsewhere, env=before, capture_output=True, text=True, check=False, timeout=60)
    assert (b.returncode, a.wait()) == (0, 0), b.stderr
    said = [*a.stdout.splitlines(), *b.stdout.splitlines()]
    assert sorted(said) in (["0 me a", "1 me a", "2 you b"], ["0 you b", "1 me a", "2 me a"])
    result = json.loads((elsewhere / "runs" / "j1" / "b" / "result.json").read_text())
    assert result["state"] == "SUCCEEDED"
    assert b"say.py" in (elsewhere / "runs" / "j1" / "b" / "job.yaml").read_bytes()


def test_who_joins_a_run_as_json_gets_one_object(launch: Launcher, tmp_path: Path) -> None:
    with external_server(password="s3cret-pass-word") as server:
        common = ("run_id=j1", "nodes=2", f"rendezvous.url={server.url}", "node.name=a")
        a = launch(*common, *python("print('hello')"), name="a")
        a.await_event("transition", to="RENDEZVOUS")
        until(lambda: ctl("status", server.url, "j1").returncode == 0, "the job is published")
        b = ctl("join", "--json", server.url, "j1", "node.name=b", cwd=tmp_path)
        assert (b.returncode, a.wait()) == (0, 0), b.stderr
        assert json.loads(b.stdout)["state"] == "SUCCEEDED"
    assert [path.read_text() for path in (tmp_path / "runs").rglob("stdout.log")] == ["hello\n"]
    texts = [b.stderr, b.stdout, *(path.read_text() for path in tmp_path.rglob("*") if path.is_file())]
    assert not any("s3cret-pass-word" in text for text in texts)


def test_a_joiner_can_change_nothing_of_the_job(nodes: Nodes, server: Server, tmp_path: Path) -> None:
    a = nodes.start("a", *ELASTIC, *SLEEP)
    in_round(a, 1)
    for words in (["worker.cmd=[rm,x]"], ["--", "rm", "x"], ["restart=never"]):
        done = ctl("join", server.url, "j1", *words, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "belongs to the job, which the run has" in done.stderr
    assert ctl("join", server.url, "j2", cwd=tmp_path).returncode == 3
    assert list(tmp_path.glob("runs")) == [], "nothing was started"
