"""Several agents on one real server: one world, one decision, and what happens when one of them dies."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from orchestrator.edge.redis.scripts import group_keys
from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import SLEEP, alive, external_server, in_round, python, ranks, until
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e


def restored(server: Server) -> tuple[str, int] | None:
    """The state and the round that the server has of the run."""
    words = server.say("HMGET", f"{group_keys('j1', 'default')[0]}", "state", "round").decode().split("\r\n")
    return (words[2], int(words[4])) if len(words) > 4 and words[1] != "$-1" else None


def test_two_agents_form_one_world(nodes: Nodes) -> None:
    say = python("import os", "print(os.environ['RANK'], os.environ['WORLD_SIZE'], os.environ['MASTER_PORT'])")
    runs = [nodes.start(name, "nodes=2", "worker.nproc=2", "logs.prefix=''", *say) for name in "ab"]
    assert [run.wait() for run in runs] == [0, 0]
    lines = [line.split() for run in runs for line in run.stdout.splitlines()]
    assert sorted(rank for rank, _, _ in lines) == ["0", "1", "2", "3"]
    assert {size for _, size, _ in lines} == {"4"}
    assert len({port for _, _, port in lines}) == 1
    settled = [run.events("round_settled")[0] for run in runs]
    assert {record["group_rank"] for record in settled} == {0, 1}
    assert {record["world_size"] for record in settled} == {4}


def test_a_killed_worker_restarts_the_group_on_both_nodes_with_the_same_ranks(nodes: Nodes) -> None:
    a, b = (nodes.start(name, "nodes=2", "worker.nproc=2", *SLEEP) for name in "ab")
    first = in_round(a, 2)
    in_round(b, 2)
    before = {"a": ranks(a, first), "b": ranks(b, first)}
    os.kill(next(iter(a.workers(first).values())), signal.SIGKILL)
    second = in_round(a, 2, after=first)
    assert in_round(b, 2, after=first) == second
    assert {"a": ranks(a, second), "b": ranks(b, second)} == before
    charged = [run.events("restart_decided") for run in (a, b)]
    assert [len(records) for records in charged] == [1, 1], "decided once, and both heard of it"
    assert {records[0]["cause"]["node"] for records in charged} == {"a"}
    a.signal(signal.SIGTERM)
    assert (a.wait(), b.wait()) == (143, 143), "a stop ends the run for all"


def test_a_killed_agent_is_reported_by_its_guard_and_the_survivor_goes_on(nodes: Nodes) -> None:
    patient = ("rendezvous.lease_s=60", "nodes=1:2", "worker.nproc=2")
    a, b = (nodes.start(name, *patient, *SLEEP) for name in "ab")
    first = in_round(a, 2)
    in_round(b, 2)
    orphans = b.workers(first).values()
    b.signal(signal.SIGKILL)
    second = in_round(a, 1, after=first)  # within the minute of the lease only if the guard has told
    assert ranks(a, second) == {0, 1}
    assert not any(alive(pid) for pid in orphans)
    (superseded,) = a.events("transition", on="round_superseded")
    assert "b" in superseded["reason"]
    assert a.events("restart_decided") == [], "a lost member is not charged"
    a.signal(signal.SIGTERM)
    assert a.wait() == 143


def test_a_node_that_vanishes_is_noticed_by_its_lease(nodes: Nodes) -> None:
    a, b = (nodes.start(name, "rendezvous.lease_s=1", "nodes=1:2", *SLEEP) for name in "ab")
    first = in_round(a, 2)
    in_round(b, 2)
    b.kill_with_guard()  # nobody is left to tell
    in_round(a, 1, after=first)
    a.signal(signal.SIGTERM)
    assert a.wait() == 143


def test_a_late_node_joins_and_survivors_keep_their_ranks(nodes: Nodes) -> None:
    elastic = ("nodes=1:2", "rendezvous.last_call_s=0.1", "rendezvous.scale_up_s=0.1", "worker.nproc=2")
    a = nodes.start("a", *elastic, *SLEEP)
    alone = in_round(a, 1)
    b = nodes.start("b", *elastic, *SLEEP)
    both = in_round(a, 2, after=alone)
    assert in_round(b, 2) == both
    assert (ranks(a, both), ranks(b, both)) == ({0, 1}, {2, 3})
    a.signal(signal.SIGKILL)
    again = in_round(b, 1, after=both)
    assert ranks(b, again) == {0, 1}, "the highest ranks move down into the hole"
    b.signal(signal.SIGTERM)
    assert b.wait() == 143


def test_the_first_failure_of_the_group_is_everyones_root_cause(nodes: Nodes) -> None:
    boom = python("import os, time", "if os.environ['RANK'] == '1': raise ValueError('boom')", "time.sleep(600)")
    a, b = (nodes.start(name, "nodes=2", "restart=never", *boom) for name in "ab")
    assert (a.wait(), b.wait()) == (1, 1)
    causes = [run.result["root_cause"] for run in (a, b)]
    assert causes[0] == causes[1]
    assert (causes[0]["rank"], causes[0]["message"]) == (1, "boom")
    assert all("ValueError: boom" in run.stderr for run in (a, b))


def test_nobody_leaves_before_everyone_has_succeeded(nodes: Nodes) -> None:
    gate = "import os, sys, time"
    wait = "while os.environ['RANK'] == '1' and not os.path.exists(sys.argv[1]): time.sleep(0.01)"
    flag = str(nodes.start("probe", "nodes=1", "run_id=other", *python("pass")).directory / "flag")
    a, b = (nodes.start(name, "nodes=2", *python(gate, wait), flag) for name in "ab")
    runs = {run.await_event("round_settled")["group_rank"]: run for run in (a, b)}
    runs[0].await_event("transition", to="FINISHING")
    runs[1].await_healthy()
    assert runs[0].process.poll() is None
    assert runs[0].state_is("FINISHING")
    Path(flag).touch()
    assert (a.wait(), b.wait()) == (0, 0)


def test_a_group_that_does_not_come_together_ends_with_3(nodes: Nodes) -> None:
    a = nodes.start("a", "nodes=2", "rendezvous.join_timeout_s=0.5", *SLEEP)
    assert a.wait() == 3
    assert "rendezvous.join_timeout_s" in a.stderr


def test_whoever_comes_to_a_closed_run_ends_with_its_code(nodes: Nodes) -> None:
    assert nodes.start("a", "restart=never", *python("raise SystemExit(5)")).wait() == 1
    late = nodes.start("b", "restart=never", *SLEEP)
    assert late.wait() == 1
    assert late.events("worker_started") == []


def test_workers_run_through_a_server_that_comes_back_empty(nodes: Nodes, server: Server) -> None:
    a, b = (nodes.start(name, "nodes=2", "rendezvous.lease_s=1", *SLEEP) for name in "ab")
    first = in_round(a, 2)
    in_round(b, 2)
    for count in (1, 2):  # a second loss is no worse than the first
        server.kill()
        a.await_event("server_lost", count)
        server.start()
        a.await_event("server_back", count)
        until(lambda: restored(server) == ("settled", first), "the round is restored, with its number")
    for agent in (a, b):
        assert agent.state_is("HEALTHY")
        assert all(alive(pid) for pid in agent.workers(first).values())
    os.kill(next(iter(a.workers(first).values())), signal.SIGKILL)  # and what it decides is decided on
    second = in_round(b, 2, after=first)
    assert second == first + 1
    a.signal(signal.SIGTERM)
    assert (a.wait(), b.wait()) == (143, 143)
    tokens = [record["charged"] for record in b.events("round_settled")]
    assert tokens == [0, 1]


def test_a_server_that_stays_away_ends_the_run_with_3(nodes: Nodes, server: Server) -> None:
    a = nodes.start("a", "nodes=1:2", "rendezvous.lease_s=1", "rendezvous.server_grace_s=1", *SLEEP)
    in_round(a, 1)
    server.kill()
    assert a.wait() == 3
    assert a.result["state"] == "FAILED"


def test_a_node_can_bring_the_server_for_the_others(launch: Launcher) -> None:
    say = python("import os", "print(os.environ['RANK'])")
    host = launch("run_id=j2", "nodes=2", "rendezvous.listen=127.0.0.1:0", "logs.prefix=''", *say, name="host")
    url = until(lambda: re.search(r"redis://\S+", host.stderr), "the URL is shown")[0]
    guest = launch("run_id=j2", "nodes=2", f"rendezvous.url={url}", "logs.prefix=''", *say, name="guest")
    assert (host.wait(), guest.wait()) == (0, 0)
    assert sorted([*host.stdout.split(), *guest.stdout.split()]) == ["0", "1"]


def test_a_password_is_in_no_file_and_on_no_screen(launch: Launcher) -> None:
    with external_server(password="s3cret-pass-word") as server:
        run = launch("run_id=j3", f"rendezvous.url={server.url}", *python("pass"))
        assert run.wait() == 0
    texts = [run.stderr, run.stdout, *(p.read_text() for p in run.run_dir.rglob("*") if p.is_file())]
    assert not any("s3cret-pass-word" in text for text in texts)
