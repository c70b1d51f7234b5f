"""Nodes that stand by, and runs that go on after their end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import SLEEP, Launch, alive, in_round, python, ranks, until
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e

SPARE = ("nodes=2", "rendezvous.spares=1", "rendezvous.lease_s=2", "worker.nproc=2")
COUNT = "os.environ['TORCHELASTIC_RESTART_COUNT']"


def test_a_spare_takes_the_ranks_of_a_lost_node_at_once(nodes: Nodes) -> None:
    a, b = (nodes.start(name, *SPARE, *SLEEP) for name in "ab")
    first = in_round(a, 2)
    in_round(b, 2)
    c = nodes.start("c", *SPARE, *SLEEP)
    until(lambda: c.state_is("STANDBY"), "the third node stands by")
    assert "standing by: round 1 runs without this node, which takes the next place that is free" in c.stderr
    lost = ranks(b, first)
    b.signal(signal.SIGKILL)
    second = in_round(c, 2, after=first)
    assert in_round(a, 2, after=first) == second == first + 1
    assert ranks(c, second) == lost
    assert ranks(a, second) == ranks(a, first)
    a.signal(signal.SIGTERM)
    assert (a.wait(), c.wait()) == (143, 143)


def test_more_nodes_than_spares_are_refused_and_a_spare_is_not_sent_away(nodes: Nodes) -> None:
    a, b = (nodes.start(name, *SPARE, *SLEEP) for name in "ab")
    in_round(a, 2)
    in_round(b, 2)
    c = nodes.start("c", *SPARE, *SLEEP)
    until(lambda: c.state_is("STANDBY"), "the third node stands by")
    d = nodes.start("d", *SPARE, *SLEEP)
    assert d.wait() == 3
    assert "run j1 has all 2 nodes that it may have, and all spares (1, rendezvous.spares)" in d.stderr
    assert c.process.poll() is None
    c.signal(signal.SIGTERM)
    assert c.wait() == 143
    assert (a.wait(), b.wait()) == (143, 143)


def test_a_spare_outlives_its_server(nodes: Nodes, server: Server) -> None:
    a, b, c = (nodes.start(name, *SPARE, *SLEEP) for name in "abc")
    agents = [a, b, c]

    def settled() -> tuple[list[Launch], Launch] | None:
        members = [agent for agent in agents if agent.state_is("HEALTHY")]
        spare = [agent for agent in agents if agent.state_is("STANDBY")]
        return (members, spare[0]) if len(members) == 2 and spare else None

    (one, other), spare = until(settled, "two members and a spare")
    pids = [*one.workers(1).values(), *other.workers(1).values()]
    server.kill()
    one.await_event("server_lost")
    server.start()
    one.await_event("server_back")
    spare.await_event("server_back")
    other.signal(signal.SIGKILL)
    second = in_round(spare, 2, after=1)
    assert second == 2, "the spare came back too, and the round's number with the members"
    assert not any(alive(pid) for pid in pids)
    one.signal(signal.SIGTERM)
    assert (one.wait(), spare.wait()) == (143, 143)


def test_a_failed_run_is_continued_where_it_was_reopened(nodes: Nodes) -> None:
    script = python("import os, sys", f"sys.exit(3 if int({COUNT}) < 2 else 0)")
    budget = ("nodes=1:2", "rendezvous.last_call_s=0.1", "restart.budget.max=1")
    first = nodes.start("a", *budget, *script)
    assert first.wait() == 1
    again = nodes.start("a", *budget, *script, directory="again")
    assert again.wait() == 1, "a closed run is closed"
    assert not again.events("worker_started")
    third = nodes.start("a", *budget, *script, directory="third", env={"SLURM_RESTART_COUNT": "1"})
    assert third.wait() == 0, third.stderr
    settled = third.events("round_settled")
    assert [record["round"] for record in settled] == [3, 4], "rounds go on"
    assert [record["charged"] for record in settled] == [1, 2], "so do restarts, with a budget of their own"
    late = nodes.start("a", *budget, "rendezvous.reopen=true", *script, directory="late")
    assert late.wait() == 0
    assert not late.events("worker_started"), "what has succeeded is not run again"


def test_a_stopped_run_may_be_continued_with_another_job(nodes: Nodes) -> None:
    several = ("nodes=1:2", "rendezvous.last_call_s=0.1")
    first = nodes.start("a", *several, *SLEEP)
    in_round(first, 1)
    first.signal(signal.SIGTERM)
    assert first.wait() == 143
    changed = nodes.start("a", *several, "rendezvous.reopen=true", *python("print('done')"), directory="changed")
    assert changed.wait() == 0, changed.stderr
    assert changed.events("round_settled")[0]["round"] == 2
    assert changed.events("round_settled")[0]["why"] == "reopened"


def test_a_lone_run_outlives_its_embedded_server(launch: Launcher) -> None:
    run = launch(*SLEEP)
    first = run.await_healthy()
    pid = run.workers(first)[0]
    children = until(lambda: servers_of(run), "the embedded server runs")
    os.kill(children[0], signal.SIGKILL)
    run.await_event("server_lost")
    run.await_event("server_back")
    until(lambda: servers_of(run) not in ([], children), "another server runs")
    os.kill(pid, signal.SIGKILL)
    assert run.await_healthy(2) == first + 1
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert not run.events("lease_lost")
    assert run.result["restarts"] == 1


def servers_of(run: Launch) -> list[int]:
    """The pids of the servers that the guard of ``run`` has started."""
    children = Path(f"/proc/{run.guard_pid()}/task/{run.guard_pid()}/children").read_text().split()
    return [int(pid) for pid in children if b"valkey-server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
