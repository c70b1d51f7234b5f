"""The oracle finds what it is there for: a good run passes, and each thing that goes wrong in it is found, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from orchestrator.core.table import build
from tests.chaos import oracle
from tests.core.specs import group
from tests.e2e.harness import Launch
from tests.edge import servers
from tests.edge.servers import Server

server = servers.server

Record = dict[str, Any]
LIFE = (
    ("INIT", "agent_started", "RENDEZVOUS"),
    ("RENDEZVOUS", "round_settled", "STARTING"),
    ("STARTING", "workers_started", "HEALTHY"),
    ("HEALTHY", "worker_failed", "STOPPING"),
    ("STOPPING", "workers_stopped", "DECIDING"),
    ("DECIDING", "restart_decided", "BACKOFF"),
    ("BACKOFF", "backoff_elapsed", "RENDEZVOUS"),
    ("RENDEZVOUS", "round_settled", "STARTING"),
    ("STARTING", "workers_started", "HEALTHY"),
    ("HEALTHY", "run_closed", "CLOSING"),
    ("CLOSING", "run_left", "STOPPED"),
)


class Left(Launch):
    """What a launch of long ago has left."""

    def __init__(self, node: str, slot: int) -> None:
        self.directory = Path(f"{node}.1")
        self.records: list[Record] = []
        self.code = 143
        self.said = "stopped"
        self.outcome = {"exit_code": 143, "state": "STOPPED", "restarts": 1}
        self.process = SimpleNamespace(poll=lambda: self.code)  # type: ignore[assignment]
        number = 0
        for source, on, target in LIFE:
            if on == "round_settled":
                number += 1
                self.add("round_settled", number, node=node, **seat(slot, charged=number - 1))
            if on == "restart_decided":
                self.add("restart_decided", number, node=node, charged=True, remaining=2)
            self.add("transition", number, node=node, **{"from": source, "to": target, "on": on})

    def add(self, event: str, number: int, **fields: object) -> None:
        self.records.append({"event": event, "round": number, **fields})

    def of(self, event: str, number: int) -> Record:
        """The record that is about to be spoilt."""
        return next(record for record in self.records if (record["event"], record["round"]) == (event, number))

    @property
    def journal(self) -> list[Record]:
        return self.records

    @property
    def stderr(self) -> str:
        return self.said

    @property
    def result(self) -> Record:
        return self.outcome


def seat(slot: int, *, charged: int) -> Record:
    return {
        "world_size": 2,
        "nodes": 2,
        "group_rank": slot,
        "base_rank": slot,
        "charged": charged,
        "why": "worker failed" if charged else "first",
    }


class Scene:
    """Two nodes with a worker each, in two rounds, of which the first failed."""

    def __init__(self, directory: Path) -> None:
        self.a, self.b = Left("a", 0), Left("b", 1)
        self.directory = directory
        self.workers = {
            f"{node}{number}": {
                "RANK": slot,
                "LOCAL_RANK": 0,
                "GROUP_RANK": slot,
                "WORLD_SIZE": 2,
                "GROUP_WORLD_SIZE": 2,
                "MASTER_ADDR": "10.0.0.1",
                "MASTER_PORT": 4000 + number,
                "TORCHELASTIC_RESTART_COUNT": number - 1,
                "ORCHESTRATOR_ROUND": number,
                "ORCHESTRATOR_TOKEN": 1000 + number,
                "WITNESS_NODE": node,
                "pid": 10 * number + slot,
                "began_ns": number * 10**9,
                "last_ns": number * 10**9 + 9 * 10**8,
            }
            for number in (1, 2)
            for slot, node in enumerate("ab")
        }

    def judge(self) -> None:
        for name, worker in self.workers.items():
            head = {key: value for key, value in worker.items() if key != "last_ns"}
            (self.directory / name).write_text(f"{json.dumps(head)}\n{worker['last_ns']:020d}\n")
        table = build(group(nodes=(2, 2), budget=1))
        oracle.verify(oracle.Evidence([self.a, self.b], self.directory, table, (2, 2), 1))


SPOILT: dict[str, tuple[Callable[[Scene], object], str]] = {
    "one member counts other nodes": (lambda s: s.a.of("round_settled", 1).update(nodes=3), "members agree: round 1"),
    "a rank is there twice": (lambda s: s.b.of("round_settled", 2).update(group_rank=0), "ranks are unique: round 2"),
    "a rank is too high": (lambda s: s.b.of("round_settled", 1).update(group_rank=2), "ranks are contiguous: round 1"),
    "too few nodes": (
        lambda s: [one.of("round_settled", 1).update(nodes=1) for one in (s.a, s.b)],
        "MIN <= nodes <= MAX: round 1",
    ),
    "a round comes again": (lambda s: s.a.of("round_settled", 2).update(round=1), "rounds only grow: a.1"),
    "a charge is forgotten": (
        lambda s: [one.of("round_settled", 1).update(charged=5) for one in (s.a, s.b)],
        "charged restarts never fall: round 2",
    ),
    "two tokens in a round": (
        lambda s: s.workers["a2"].update(ORCHESTRATOR_TOKEN=1009),
        "members agree on the token: round 2",
    ),
    "a token is used twice": (
        lambda s: [s.workers[name].update(ORCHESTRATOR_TOKEN=1001) for name in ("a2", "b2")],
        "tokens only grow: round 2",
    ),
    "two masters": (lambda s: s.workers["b1"].update(MASTER_PORT=9), "workers are told the same: round 1: MASTER_PORT"),
    "two workers of one rank": (lambda s: s.workers["b1"].update(RANK=0), "ranks are unique and below the world size"),
    "a worker without a seat": (lambda s: s.workers["b1"].update(WITNESS_NODE="c"), "who runs workers has a seat"),
    "a worker is told another size": (
        lambda s: [s.workers[name].update(WORLD_SIZE=4) for name in ("a1", "b1")],
        "workers are told what was settled: round 1",
    ),
    "two rounds at once": (
        lambda s: s.workers["a1"].update(last_ns=2 * 10**9 + 1),
        "one round at a time: rank 0 on a (pid 10) of round 1 still ran",
    ),
    "two ends of a round": (
        lambda s: next(r for r in s.b.records if r.get("on") == "restart_decided").update(on="round_superseded"),
        "a round ends one way: round 1",
    ),
    "two decisions": (lambda s: s.b.of("restart_decided", 1).update(remaining=9), "one decision a round: round 1"),
    "a budget that is exceeded": (
        lambda s: s.a.add("restart_decided", 2, charged=True, remaining=2),
        "the budget holds: 2 rounds were charged, of 1",
    ),
    "a step that no row allows": (lambda s: s.a.of("transition", 2).update(on="drained"), "the journal replays: a.1"),
    "an agent that still runs": (lambda s: setattr(s.a, "code", None), "everything ends: a.1"),
    "a bug of ours": (lambda s: setattr(s.a, "code", 70), "no bug of ours: a.1"),
    "an odd exit code": (lambda s: setattr(s.a, "code", 99), "an end has a sensible code: a.1"),
    "a result that says otherwise": (lambda s: s.a.outcome.update(exit_code=0), "the result says the end: a.1"),
}


def test_a_good_run_passes(tmp_path: Path) -> None:
    Scene(tmp_path).judge()


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_wrong_in_a_run_is_found(tmp_path: Path, what: str) -> None:
    spoil, finding = SPOILT[what]
    scene = Scene(tmp_path)
    spoil(scene)
    with pytest.raises(AssertionError, match="what must hold did not") as caught:
        scene.judge()
    assert finding in str(caught.value)


def test_a_key_that_would_stay_for_ever_is_found(server: Server) -> None:
    with redis.Redis.from_url(server.url, db=5) as client:
        client.set("orchestrator:{r}:x", 1, px=60_000)
        assert list(oracle.keys(f"{server.url}?db=5", "r")) == []
        client.set("orchestrator:{r}:y", 1)
        client.set("elsewhere", 1, px=60_000)
        found = sorted(oracle.keys(f"{server.url}?db=5", "r"))
        client.flushdb()
    assert [finding.partition(":")[0] for finding in found] == ["every key has a TTL", "keys share a slot"]
