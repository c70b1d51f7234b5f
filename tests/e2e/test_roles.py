"""Several roles in one run: they wait for each other, end together, and are stopped in the reverse order."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import Launch, alive, until
from tests.e2e.test_health import ask
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e

SLEEP = "[__python__, -c, 'import time; time.sleep(600)']"
FINE = "[__python__, -c, '']"
FAILS = "[__python__, -c, 'raise SystemExit(3)']"


class Written:
    """Jobs with roles, from their YAML."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0

    def job(self, text: str) -> str:
        self._number += 1
        path = self._directory / f"job{self._number}.yaml"
        text = dedent(text)
        head = "" if "\nrestart:" in text else "restart: {backoff: {initial_s: 0.01, max_s: 0.05}}\n"
        path.write_text(head + text)
        return str(path)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def order(run: Launch, *events: tuple[str, str, object]) -> list[int]:
    """Where in the journal the first records of (group, event, what leads to or the pid's group) stand."""
    found = []
    for group, event, to in events:
        at = [
            number
            for number, record in enumerate(run.journal)
            if record["group"] == group and record["event"] == event and (to is None or record.get("to") == to)
        ]
        assert at, f"no {event} {to} of {group}: {run.journal}"
        found.append(at[0])
    return found


def healthy(run: Launch, role: str, count: int = 1) -> int:
    number: int = run.await_event("transition", count, group=role, to="HEALTHY")["round"]
    return number


def pid_of(run: Launch, role: str, round_: int = 1) -> int:
    pid: int = run.await_event("worker_started", group=role, round=round_)["pid"]
    return pid


def test_a_role_is_started_when_what_it_needs_has_come_so_far(launch: Launcher, written: Written) -> None:
    job = written.job(
        f"""
        roles:
          last: {{depends_on: {{middle: succeeded}}, worker: {{cmd: {FINE}}}}}
          middle: {{depends_on: {{first: started}}, worker: {{cmd: {FINE}}}}}
          first: {{worker: {{cmd: {FINE}}}}}
        """
    )
    run = launch(job)
    assert run.wait() == 0
    first, middle, closed, last = order(
        run,
        ("first", "transition", "HEALTHY"),
        ("middle", "transition", "STARTING"),
        ("middle", "transition", "CLOSING"),
        ("last", "transition", "STARTING"),
    )
    assert first < middle < closed < last
    assert {role: one["state"] for role, one in run.result["groups"].items()} == dict.fromkeys(
        ("first", "middle", "last"), "SUCCEEDED"
    )
    assert "last: waiting: middle is not succeeded yet" in run.stderr


def test_healthy_waits_for_the_readiness_probe(launch: Launcher, written: Written, tmp_path: Path) -> None:
    flag = tmp_path / "ready"
    job = written.job(
        f"""
        success: [trainer]
        roles:
          data:
            worker: {{cmd: {SLEEP}}}
            health: {{readiness: {{file: {{path: {flag}}}, period_s: 0.1}}}}
          trainer: {{depends_on: {{data: healthy}}, worker: {{cmd: {FINE}}}}}
        """
    )
    run = launch(job)
    healthy(run, "data")
    run.await_event("role_waiting", group="trainer", reason="data is not healthy yet")
    assert not run.events("worker_started", group="trainer")
    flag.touch()
    assert run.wait() == 0
    ready, started = order(run, ("data", "readiness", None), ("trainer", "worker_started", None))
    assert ready < started
    assert run.result["groups"]["data"]["state"] == "STOPPED"


@pytest.mark.parametrize(
    ("success", "one", "other", "code", "states"),
    [
        ("all", FINE, FINE, 0, {"one": "SUCCEEDED", "other": "SUCCEEDED"}),
        ("all", FAILS, SLEEP, 1, {"one": "FAILED", "other": "STOPPED"}),
        ("any", FINE, SLEEP, 0, {"one": "SUCCEEDED", "other": "STOPPED"}),
        ("any", FAILS, FINE, 0, {"other": "SUCCEEDED"}),
        ("any", FAILS, FAILS, 1, {"one": "FAILED", "other": "FAILED"}),
        ("[one]", FINE, SLEEP, 0, {"one": "SUCCEEDED", "other": "STOPPED"}),
        ("[one]", FINE, FAILS, 0, {"one": "SUCCEEDED"}),
    ],
)
def test_the_roles_that_decide_end_the_run(  # noqa: PLR0917 - columns of the table above
    launch: Launcher, written: Written, success: str, one: str, other: str, code: int, states: dict[str, str]
) -> None:
    job = written.job(
        f"""
        success: {success}
        restart: never
        roles:
          one: {{worker: {{cmd: {one}}}}}
          other: {{worker: {{cmd: {other}}}}}
        """
    )
    run = launch(job)
    assert run.wait() == code
    ended = {role: group["state"] for role, group in run.result["groups"].items()}
    assert {role: ended[role] for role in states} == states
    assert run.result["state"] == ("FAILED" if code else "SUCCEEDED")
    assert (run.result["root_cause"] is None) is (code == 0)


def test_who_waits_for_a_role_that_fails_fails_too_and_never_starts(launch: Launcher, written: Written) -> None:
    job = written.job(
        f"""
        success: [trainer]
        roles:
          data: {{restart: never, worker: {{cmd: {FAILS}}}}}
          trainer: {{depends_on: {{data: succeeded}}, worker: {{cmd: {FINE}}}}}
        """
    )
    run = launch(job)
    assert run.wait() == 1
    assert not run.events("worker_started", group="trainer")
    assert "role data, on which this one depends, failed" in run.result["groups"]["trainer"]["reason"]


@pytest.mark.parametrize("cascade", [False, True])
def test_a_role_is_restarted_with_the_one_it_needs_if_that_is_wished(
    launch: Launcher, written: Written, cascade: bool
) -> None:
    job = written.job(
        f"""
        success: [trainer]
        roles:
          data: {{worker: {{cmd: {SLEEP}}}}}
          trainer:
            depends_on: {{data: healthy}}
            restart: {{cascade: {str(cascade).lower()}}}
            worker: {{cmd: {SLEEP}}}
        """
    )
    run = launch(job)
    healthy(run, "trainer")
    trainer = pid_of(run, "trainer")
    os.kill(pid_of(run, "data"), signal.SIGKILL)
    healthy(run, "data", 2)
    if cascade:
        healthy(run, "trainer", 2)
        waits = run.events("transition", group="trainer", to="WAITING")
        assert [record["on"] for record in waits] == ["agent_started", "workers_stopped"]
        assert run.events("transition", group="trainer", on="round_superseded")[0]["reason"].startswith("role data")
        again = run.await_event("worker_started", group="trainer", round=2)
        assert run.journal.index(again) > run.journal.index(run.events("worker_started", group="data", round=2)[0])
    else:
        assert alive(trainer)
        assert len(run.events("worker_started", group="trainer")) == 1
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert {role: one["restarts"] for role, one in run.result["groups"].items()} == {"data": 1, "trainer": 0}


SLOWLY = "lambda *_: (time.sleep(0.3), sys.exit())"  # ends
SCRIPT = "import signal, sys, time; signal.signal(15, {}); print('up', flush=True); time.sleep(600)"
DYING = f"""[__python__, -c, "{SCRIPT.format(SLOWLY)}"]"""
STUBBORN = f"""[__python__, -c, "{SCRIPT.format("signal.SIG_IGN")}"]"""


def chain(written: Written) -> str:
    return written.job(
        f"""
        roles:
          data: {{worker: {{cmd: {DYING}}}}}
          cache: {{depends_on: {{data: started}}, worker: {{cmd: {DYING}}}}}
          trainer: {{depends_on: {{cache: started}}, worker: {{cmd: {DYING}}}}}
        """
    )


def started(run: Launch, *roles: str) -> None:
    for role in roles:
        healthy(run, role)
        until(partial(_said, run, rf"\[{role}\d\] up"), f"{role} is up")


def _said(run: Launch, pattern: str) -> bool:
    return re.search(pattern, run.stdout) is not None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_roles_are_stopped_in_the_reverse_order(launch: Launcher, written: Written, number: int, code: int) -> None:
    run = launch(chain(written))
    started(run, "data", "cache", "trainer")
    run.signal(number)
    assert run.wait() == code
    trainer, cache, gone, data = order(
        run,
        ("trainer", "worker_exited", None),
        ("cache", "transition", "CLOSING"),
        ("cache", "worker_exited", None),
        ("data", "transition", "CLOSING"),
    )
    assert trainer < cache < gone < data
    assert {one["state"] for one in run.result["groups"].values()} == {"STOPPED"}


def test_a_second_signal_waits_for_nobody(launch: Launcher, written: Written) -> None:
    run = launch(
        written.job(
            f"""
            roles:
              data: {{worker: {{cmd: {STUBBORN}}}}}
              trainer: {{depends_on: {{data: started}}, worker: {{cmd: {STUBBORN}}}}}
            """
        )
    )
    started(run, "data", "trainer")
    run.signal(signal.SIGTERM)
    run.await_event("transition", group="trainer", to="CLOSING")
    assert not run.events("transition", group="data", to="CLOSING")
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert {record["signal"] for record in run.events("worker_exited")} == {signal.SIGKILL}


def test_a_role_of_narrow_scope_replaces_its_worker_and_no_other_role_hears_of_it(
    launch: Launcher, written: Written
) -> None:
    job = written.job(
        f"""
        roles:
          data: {{worker: {{cmd: {SLEEP}}}}}
          trainer:
            depends_on: {{data: started}}
            worker: {{cmd: {SLEEP}, nproc: 2}}
            restart: {{kind: on_failure, scope: worker, cascade: true, backoff: {{initial_s: 0.01, max_s: 0.05}}}}
        """
    )
    run = launch(job)
    healthy(run, "trainer")
    data = pid_of(run, "data")
    before = {one["rank"]: one["pid"] for one in run.events("worker_started", group="trainer")}
    os.kill(before[1], signal.SIGKILL)
    again = run.await_event("worker_started", group="trainer", incarnation=1)
    assert again["rank"] == 1
    assert alive(before[0])
    assert alive(data)
    assert len(run.events("round_settled")) == 2, "one of each role"
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_the_guard_is_lost_once_and_every_role_is_restarted(launch: Launcher, written: Written) -> None:
    run = launch(written.job(f"roles: {{one: {{worker: {{cmd: {SLEEP}}}}}, other: {{worker: {{cmd: {SLEEP}}}}}}}"))
    for role in ("one", "other"):
        healthy(run, role)
    os.kill(run.guard_pid(), signal.SIGKILL)
    for role in ("one", "other"):
        healthy(run, role, 2)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_roles_live_on_the_nodes_that_admit_them_and_meet_through_the_server(
    nodes: Nodes, server: Server, written: Written
) -> None:
    job = written.job(
        f"""
        success: [trainer]
        roles:
          data: {{on: [b*], worker: {{cmd: {DYING}}}}}
          trainer: {{on: [a*], nodes: 2, depends_on: {{data: healthy}}, worker: {{cmd: {DYING}}}}}
        """
    )
    first, second = (nodes.start(name, job) for name in ("a1", "a2"))
    for run in (first, second):
        run.await_event("role_waiting", group="trainer")
    third = nodes.start("b1", job)
    started(third, "data")
    started(first, "trainer")
    started(second, "trainer")
    assert not third.events("worker_started", group="trainer")
    assert {record["group"] for record in first.events("worker_started")} == {"trainer"}
    server.kill()
    server.start()  # without memory: both rounds are given back
    for run in (first, second, third):
        run.await_event("server_back")
    os.kill(pid_of(first, "trainer"), signal.SIGKILL)
    for run in (first, second):
        healthy(run, "trainer", 2)  # which data's being healthy had to be known for
    assert len(third.events("worker_started")) == 1
    first.signal(signal.SIGTERM)
    assert [run.wait() for run in (first, second, third)] == [143, 143, 143]


def test_an_agent_that_no_role_admits_is_told_so(launch: Launcher, written: Written) -> None:
    run = launch(written.job(f"roles: {{data: {{on: [gpu-*], worker: {{cmd: {FINE}}}}}}}"), "node.name=cpu-1")
    assert run.wait() == 2
    assert "cpu-1" in run.stderr
    assert sys.executable not in run.stderr


def test_health_shows_every_role(launch: Launcher, written: Written) -> None:
    run = launch(
        written.job(
            f"""
            health: {{kind: http, port: 0}}
            roles:
              one: {{worker: {{cmd: {SLEEP}}}}}
              other: {{depends_on: {{one: healthy}}, worker: {{cmd: {SLEEP}, nproc: 2}}}}
            """
        )
    )
    healthy(run, "other")
    until(lambda: ask(run, "/readyz")[0] == 200, "both are ready")
    groups = {group["group"]: len(group["workers"]) for group in json.loads(ask(run, "/status")[1])["groups"]}
    assert groups == {"one": 1, "other": 2}
    metrics = ask(run, "/metrics")[1]
    assert metrics.count("# TYPE orchestrator_state gauge") == 1
    assert 'orchestrator_workers_running{group="other"} 2' in metrics
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def apart(nodes: Nodes, written: Written) -> tuple[Launch, Launch, Launch]:
    """Two trainers, the second of which takes its time to stop, and on a node of its own the data that they need."""
    slow = DYING.replace("0.3", "1.2")
    job = written.job(
        f"""
        success: [trainer]
        roles:
          data: {{on: [b*], worker: {{cmd: {DYING}}}}}
          trainer: {{on: [a*], nodes: 2, depends_on: {{data: started}}, worker: {{cmd: {slow}}}}}
        """
    )
    first, second, data = (nodes.start(name, job) for name in ("a1", "a2", "b1"))
    for run, role in ((first, "trainer"), (second, "trainer"), (data, "data")):
        started(run, role)
    return first, second, data


@pytest.mark.parametrize("who", ["the first", "all", "an operator"])
def test_what_a_role_needs_outlasts_it_on_other_nodes_too(
    nodes: Nodes, server: Server, written: Written, who: str
) -> None:
    first, second, data = runs = apart(nodes, written)
    if who == "an operator":
        subprocess.run(
            [sys.executable, "-m", "orchestrator.cli.ctl", "stop", server.url, "j1"], capture_output=True, check=True
        )
    for run in {"the first": runs[:1], "all": runs[::-1]}.get(who, ()):
        run.signal(signal.SIGTERM)
    assert [run.wait() for run in runs] == [143, 143, 143]
    ended = [run.events("worker_exited", group="trainer")[0]["ts"] for run in (first, second)]
    stopping = data.events("transition", group="data", to="CLOSING")[0]
    assert stopping["ts"] > max(ended)


def test_a_role_that_is_stopped_alone_does_not_wait_for_those_that_go_on(nodes: Nodes, written: Written) -> None:
    first, second, data = apart(nodes, written)
    data.signal(signal.SIGTERM)
    assert data.wait() == 143
    assert first.state_is("HEALTHY")
    assert second.state_is("HEALTHY")
    first.signal(signal.SIGTERM)
    assert (first.wait(), second.wait()) == (143, 143)


def test_a_node_that_is_lost_while_it_stops_is_not_waited_for_for_ever(nodes: Nodes, written: Written) -> None:
    stubborn = written.job(
        f"""
        stop: {{grace_s: 1.5}}
        success: [trainer]
        roles:
          data: {{on: [b*], worker: {{cmd: {DYING}}}}}
          trainer: {{on: [a*], nodes: 2, depends_on: {{data: started}}, worker: {{cmd: {STUBBORN}}}}}
        """
    )
    first, second, data = (nodes.start(name, stubborn) for name in ("a1", "a2", "b1"))
    for run, role in ((first, "trainer"), (second, "trainer"), (data, "data")):
        started(run, role)
    first.signal(signal.SIGTERM)
    second.await_event("transition", group="trainer", to="CLOSING")
    guard = second.guard_pid()
    os.kill(guard, signal.SIGSTOP)  # it cannot say that its agent has died
    os.kill(second.process.pid, signal.SIGKILL)
    assert (first.wait(), data.wait()) == (143, 143)
    os.kill(guard, signal.SIGCONT)  # and cleans up


def test_a_second_signal_waits_for_nobody_on_other_nodes_either(nodes: Nodes, written: Written) -> None:
    job = written.job(
        f"""
        success: [trainer]
        roles:
          data: {{on: [b*], worker: {{cmd: {STUBBORN}}}}}
          trainer: {{on: [a*], depends_on: {{data: started}}, worker: {{cmd: {STUBBORN}}}}}
        """
    )
    trainer, data = (nodes.start(name, job) for name in ("a1", "b1"))
    for run, role in ((trainer, "trainer"), (data, "data")):
        started(run, role)
    trainer.signal(signal.SIGTERM)
    trainer.await_event("transition", group="trainer", to="CLOSING")
    data.signal(signal.SIGTERM)
    data.await_event("stop_requested")
    assert not data.events("transition", group="data", to="CLOSING")
    data.signal(signal.SIGTERM)
    assert data.wait(10) == 143
    assert alive(pid_of(trainer, "trainer"))
    trainer.signal(signal.SIGTERM)
    assert trainer.wait() == 143
