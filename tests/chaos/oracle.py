"""What must hold of every run, whatever was done to it: judged from all that agents, workers and the server leave.

Agents leave a journal, a result and an exit code, workers what `witness.py` wrote, the server its keys. Nothing in here
looks at a run while it goes on. Invariant: a finding names the promise that was broken, the round, and who says so.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import redis

from orchestrator.core.machine import Facts, GroupMachine
from orchestrator.core.table import Table
from orchestrator.core.words import FINAL, Event, Outcome, State
from orchestrator.errors import IllegalEvent
from tests.e2e.harness import Launch

SENSIBLE = {0, 1, 3, 75, 130, 143}  # exit codes; 70 is a bug of ours, and 2 one of the test
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Witness:
    """A worker, as it saw itself: what it was told, and when it surely was alive (s of the monotonic clock)."""

    told: Record
    began_s: float
    last_s: float

    @classmethod
    def of(cls, path: Path) -> Witness | None:
        """What is in a witness's file; None if it was killed before it had written anything."""
        head, _, rest = path.read_text().partition("\n")
        if not rest:
            return None
        told = json.loads(head)
        return cls(told, told["began_ns"] / 1e9, int(rest) / 1e9)

    def number(self, name: str) -> int:
        return int(self.told[name])

    @property
    def round(self) -> int:
        return self.number("ORCHESTRATOR_ROUND")

    @property
    def token(self) -> int:
        return self.number("ORCHESTRATOR_TOKEN")

    @property
    def node(self) -> str:
        return str(self.told["WITNESS_NODE"])

    def __str__(self) -> str:
        return f"rank {self.told['RANK']} on {self.node} (pid {self.told['pid']})"


def witnesses(directory: Path) -> list[Witness]:
    """All workers that have written something."""
    files = [path for path in sorted(directory.iterdir()) if path.name != "end"]
    return [worker for path in files if (worker := Witness.of(path)) is not None]


@dataclass
class Evidence:
    """All that is left of a run. ``killed`` are the agents that were killed, and could not say an end."""

    launches: Sequence[Launch]
    witnesses: Path
    table: Table
    nodes: tuple[int, int]
    budget: int
    killed: Sequence[Launch] = ()
    workers: list[Witness] = field(default_factory=list)
    seats: dict[int, list[tuple[str, Record]]] = field(default_factory=dict)  # round -> who says what of it

    def __post_init__(self) -> None:
        self.workers = witnesses(self.witnesses)
        seats: defaultdict[int, list[tuple[str, Record]]] = defaultdict(list)
        for launch in self.launches:
            for record in launch.events("round_settled"):
                seats[record["round"]].append((launch.directory.name, record))
        self.seats = dict(sorted(seats.items()))


Findings = Iterator[str]


def verify(evidence: Evidence, *more: str) -> None:
    """Raise an AssertionError with everything that does not hold; ``more`` are findings of others."""
    checks: tuple[Callable[[Evidence], Findings], ...] = (
        agreement,
        progress,
        tokens,
        environments,
        one_round_at_a_time,
        decisions,
        budget,
        replays,
        ends,
    )
    found = [*more, *(finding for check in checks for finding in check(evidence))]
    assert evidence.seats, "no round was ever settled: nothing was tested"
    assert not found, "\n".join(("what must hold did not:", *found))


def agreement(evidence: Evidence) -> Findings:
    """All members of a round agree on it; ranks are unique and contiguous; MIN <= nodes <= MAX."""
    low, high = evidence.nodes
    for number, seats in evidence.seats.items():
        for what in ("nodes", "world_size", "charged", "why"):
            said = {who: record[what] for who, record in seats}
            if len(set(said.values())) > 1:
                yield f"members agree: round {number}: {what} differs: {said}"
        ranks = {who: (record["group_rank"], record["base_rank"]) for who, record in seats}
        for position, what in enumerate(("group_rank", "base_rank")):
            taken = [rank[position] for rank in ranks.values()]
            if len(set(taken)) < len(taken):
                yield f"ranks are unique: round {number}: {what} {ranks}"
        if sorted(ranks.values(), key=lambda rank: rank[0]) != sorted(ranks.values(), key=lambda rank: rank[1]):
            yield f"ranks follow the nodes' order: round {number}: {ranks}"
        nodes = seats[0][1]["nodes"]
        if any(not 0 <= group_rank < nodes for group_rank, _ in ranks.values()):
            yield f"ranks are contiguous: round {number} of {nodes} nodes: {ranks}"
        if not low <= nodes <= high:
            yield f"MIN <= nodes <= MAX: round {number} has {nodes}, and {low}:{high} was asked for"
        names = [record["node"] for _, record in seats]
        if len(set(names)) < len(names):
            yield f"a node's name is one agent's: round {number}: {[(who, r['node']) for who, r in seats]}"


def progress(evidence: Evidence) -> Findings:
    """To each agent rounds only grow; what is charged never falls."""
    for launch in evidence.launches:
        numbers = [record["round"] for record in launch.events("round_settled")]
        if numbers != sorted(set(numbers)):
            yield f"rounds only grow: {launch.directory.name} was in {numbers}"
    charged = [(number, seats[0][1]["charged"]) for number, seats in evidence.seats.items()]
    for (_, before), (number, after) in pairwise(charged):
        if after < before:
            yield f"charged restarts never fall: round {number} has {after}, the one before it had {before}"


def tokens(evidence: Evidence) -> Findings:
    """One token a round, never used twice, growing with the rounds."""
    by_round: defaultdict[int, dict[int, str]] = defaultdict(dict)
    for worker in evidence.workers:
        by_round[worker.round][worker.token] = str(worker)
    for number, found in sorted(by_round.items()):
        if len(found) > 1:
            yield f"members agree on the token: round {number}: {found}"
    flat = [(number, token) for number, found in sorted(by_round.items()) for token in found]
    for (before, old), (number, new) in pairwise(flat):
        if number > before and new <= old:
            yield f"tokens only grow: round {number} has {new}, round {before} had {old}"


def environments(evidence: Evidence) -> Findings:
    """Workers were told what their agents have in the journal, all the same, and each rank is there once."""
    shared = ("WORLD_SIZE", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    by_token: defaultdict[int, list[Witness]] = defaultdict(list)
    for worker in evidence.workers:
        by_token[worker.token].append(worker)
    for workers in by_token.values():
        number = workers[0].round
        for name in shared:
            said = {str(worker): worker.told[name] for worker in workers}
            if len(set(said.values())) > 1:
                yield f"workers are told the same: round {number}: {name} differs: {said}"
        ranks = sorted(worker.number("RANK") for worker in workers)
        if len(set(ranks)) < len(ranks) or ranks[-1] >= workers[0].number("WORLD_SIZE"):
            yield f"ranks are unique and below the world size: round {number}: {[str(w) for w in workers]}"
        seats = {record["node"]: record for _, record in evidence.seats.get(number, ())}
        for worker in workers:
            seat = seats.get(worker.node)
            if seat is None:
                yield f"who runs workers has a seat: round {number}: {worker} has none in any journal"
                continue
            expected = (seat["base_rank"] + worker.number("LOCAL_RANK"), seat["group_rank"], seat["world_size"])
            told = tuple(worker.number(name) for name in ("RANK", "GROUP_RANK", "WORLD_SIZE"))
            if (*told, worker.number("TORCHELASTIC_RESTART_COUNT")) != (*expected, seat["charged"]):
                yield f"workers are told what was settled: round {number}: {worker}: {told}, and the seat {seat}"


def one_round_at_a_time(evidence: Evidence) -> Findings:
    """The last worker of a round is gone before the first of a later one starts, on whatever nodes."""
    by_token: defaultdict[int, list[Witness]] = defaultdict(list)
    for worker in evidence.workers:
        by_token[worker.token].append(worker)
    before: Witness | None = None  # of all earlier rounds, the one that ran the longest
    for _, workers in sorted(by_token.items()):
        first = min(workers, key=lambda worker: worker.began_s)
        if before is not None and before.last_s > first.began_s:
            late_s = before.last_s - first.began_s
            yield (
                f"one round at a time: {before} of round {before.round} still ran {late_s:.3f} s "
                f"after {first} of round {first.round} had started"
            )
        longest = max(workers, key=lambda worker: worker.last_s)
        before = longest if before is None or longest.last_s > before.last_s else before


def decisions(evidence: Evidence) -> Findings:
    """A round ends one way, and a restart is decided once for all."""
    ways = {"round_superseded": "superseded", "restart_decided": "restarted"}
    found: defaultdict[int, dict[str, str]] = defaultdict(dict)
    restarts: defaultdict[int, dict[str, tuple[bool, int | None]]] = defaultdict(dict)
    for launch in evidence.launches:
        who, number = launch.directory.name, 0
        for record in launch.journal:
            if record["event"] == "round_settled":
                number = record["round"]
            elif record["event"] == "transition" and record["on"] in ways:
                found[number][f"{who} in {record['from']}"] = ways[record["on"]]
            elif record["event"] == "restart_decided":
                restarts[record["round"]][who] = (record["charged"], record["remaining"])
    for number, said in found.items():
        if len(set(said.values())) > 1:
            yield f"a round ends one way: round {number}: {said}"
    for number, decided in restarts.items():
        if len(set(decided.values())) > 1:
            yield f"one decision a round: round {number}: (charged, remaining) {decided}"


def budget(evidence: Evidence) -> Findings:
    """What was charged never exceeds the budget."""
    most = evidence.budget
    for launch in evidence.launches:
        charged = [record["charged"] for record in launch.events("round_settled")]
        if max(charged, default=0) > most:
            yield f"the budget holds: {launch.directory.name} saw {max(charged)} charged restarts of {most}"
    rounds = {r["round"] for launch in evidence.launches for r in launch.events("restart_decided", charged=True)}
    if len(rounds) > most:
        yield f"the budget holds: {len(rounds)} rounds were charged, of {most}: {sorted(rounds)}"


def replays(evidence: Evidence) -> Findings:
    """The compiled machine, given the journal's events, goes where the journal says."""
    outcomes = {State.SUCCEEDED: Outcome.SUCCEEDED, State.FAILED: Outcome.FAILED, State.STOPPED: Outcome.STOPPED}
    for launch in evidence.launches:
        machine = GroupMachine(evidence.table)
        for record in launch.events("transition"):
            said = f"{record['from']} --{record['on']}--> {record['to']}"
            if machine.state != record["from"]:
                yield f"the journal replays: {launch.directory.name}: {said}, but it was in {machine.state}"
                break
            try:
                machine.step(Event(record["on"]), Facts(outcome=outcomes.get(State(record["to"]))))
            except IllegalEvent as error:
                yield f"the journal replays: {launch.directory.name}: {said}: {error}"
                break
            if machine.state != record["to"]:
                yield f"the journal replays: {launch.directory.name}: {said}, but the machine says {machine.state}"
                break


def ends(evidence: Evidence) -> Findings:
    """Every agent has ended, with a code that says how, the same in its result, and no bug of ours."""
    for launch in evidence.launches:
        who, code = launch.directory.name, launch.process.poll()
        if code is None:
            yield f"everything ends: {who} still runs"
        elif "Traceback" in launch.stderr or code == 70:
            yield f"no bug of ours: {who} ended with {code}: {launch.stderr}"
        elif launch in evidence.killed:
            continue
        elif code not in SENSIBLE:
            yield f"an end has a sensible code: {who} ended with {code}: {launch.stderr}"
        elif launch.result["exit_code"] != code or launch.result["state"] not in FINAL:
            yield f"the result says the end: {who} ended with {code}, and says {launch.result}"
        elif launch.result["restarts"] > evidence.budget:
            yield f"the budget holds: {who} reports {launch.result['restarts']} restarts of {evidence.budget}"


def keys(url: str, run_id: str) -> Findings:
    """Every key of a run lies in one slot of a cluster and will be gone by itself."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        for key in client.scan_iter(count=1000):
            if f"{{{run_id}}}" not in key:
                yield f"keys share a slot: {key} has no {{{run_id}}}"
            ttl_ms = client.pttl(key)
            if ttl_ms == -1:
                yield f"every key has a TTL: {key} has none"
