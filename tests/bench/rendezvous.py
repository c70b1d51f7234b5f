"""How long N agents take to meet, and to meet again after one has died, on a real server; and what it costs it.

    python tests/bench/rendezvous.py --agents 1000 --json
    python tests/bench/rendezvous.py --agents 128 --peer torch

Light agents: the real commands and the real stream on one connection each, without processes. They are connected
before the clock starts, and spread over ``--processes`` processes. ``--peer torch`` has as many handlers of torch's
c10d backend meet afterwards (``peer_join_s``), and ours behind the same call (``handler_join_s``).
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import sys
import time
from argparse import ArgumentParser
from collections.abc import Mapping
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from orchestrator.core.policies import Backoff, Budget, RestartKind, RestartPolicy
from orchestrator.core.rendezvous import Bid, Claim, Seat, Waiting
from orchestrator.core.specs import RendezvousKind, RendezvousSpec
from orchestrator.edge.embedded import find_server
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.group import GroupStore
from tests.bench import torch_rendezvous
from tests.edge.servers import Server

RENDEZVOUS = RendezvousSpec(
    kind=RendezvousKind.REDIS, join_timeout_s=600, last_call_s=60, lease_s=120, scale_up_s=60, server_grace_s=600
)
RESTART = RestartPolicy(
    kind=RestartKind.ON_FAILURE,
    budget=Budget(max=3),
    free=Budget(max=100, per_s=3600),
    backoff=Backoff(initial_s=0, factor=1, max_s=0, jitter=0, reset_after_s=0),
)


class LightAgent:
    """Joins, waits for the stream, takes its seat."""

    def __init__(self, url: str, number: int, agents: int) -> None:
        self.connection = Connection.from_url(url)
        self.connection._reader = self.connection._commands  # one connection: it never reads while it asks
        self.number = number
        self.store = GroupStore(
            self.connection,
            run_id="bench",
            role="default",
            node=f"n{number}",
            nonce="1",
            min_nodes=max(1, agents - 1),
            max_nodes=agents,
            rendezvous=RENDEZVOUS,
            restart=RESTART,
        )
        self.seat: Seat | None = None

    async def meet(self) -> None:
        """From the join to the seat."""
        claim = self.seat.claim() if self.seat else Claim()
        reply = await self.store.join(Bid(nproc=1, addr="127.0.0.1", port=1024 + self.number % 60000), claim)
        while isinstance(reply, Waiting):
            await anext(self.notices)
            reply = await self.store.seat(claim)
        assert isinstance(reply, Seat), reply
        self.seat = reply

    async def lose_a_member(self) -> None:
        """Hear that the round is over."""
        await anext(self.notices)

    async def connect(self) -> None:
        """Be connected before the clock starts."""
        await self.connection.open(60)
        self.notices = self.store.notices()


def work(url: str, numbers: range, agents: int, gate: Barrier, times: Any) -> None:  # noqa: ANN401 - a queue proxy
    """One process's share of the agents."""
    asyncio.run(_work(url, numbers, agents, gate, times))


async def _work(url: str, numbers: range, agents: int, gate: Barrier, times: Any) -> None:  # noqa: ANN401
    crowd = [LightAgent(url, number, agents) for number in numbers]
    for agent in crowd:
        await agent.connect()
    gate.wait()
    began = time.monotonic()
    await asyncio.gather(*(agent.meet() for agent in crowd))
    times.put(("join", began, time.monotonic()))
    gate.wait()
    survivors = [agent for agent in crowd if agent.number != agents - 1]
    died = time.monotonic()
    for agent in crowd:
        if agent.number == agents - 1 and agent.seat is not None:
            await agent.store.leave(agent.seat.claim(), "its agent died")
    await asyncio.gather(*(again(agent) for agent in survivors))
    times.put(("rerendezvous", died, time.monotonic()))
    gate.wait()
    slots = {agent.seat.slot for agent in survivors if agent.seat is not None}
    assert len(slots) == len(survivors)
    assert all(agent.seat is not None and agent.seat.size == agents - 1 for agent in survivors)


async def again(agent: LightAgent) -> None:
    """Hear of the loss, and meet again."""
    while agent.seat is not None and agent.seat.round == 1:
        await agent.lose_a_member()
        await agent.meet()


def info(server: Server) -> Mapping[str, str]:
    """What the server says of itself."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(server.path)
        link.sendall(b"INFO everything\r\n")
        rest = b""
        while b"\r\n" not in rest:
            rest += link.recv(65536)
        head, _, rest = rest.partition(b"\r\n")
        while len(rest) < int(head[1:]):  # a bulk string: $LENGTH
            rest += link.recv(65536)
    return dict(line.split(":", 1) for line in rest.decode().splitlines() if ":" in line)


def calls(facts: Mapping[str, str]) -> int:
    """Commands of ours that the server has executed."""
    ours = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_xread")
    return sum(int(value.split(",")[0].removeprefix("calls=")) for key, value in facts.items() if key in ours)


def measure(agents: int, processes: int) -> dict[str, object]:
    """One run with so many agents."""
    server = Server(find_server(), "--maxclients", str(agents + 100))
    server.start()
    context = multiprocessing.get_context("fork")
    gate, times = context.Barrier(processes + 1), context.Queue()
    shares = [range(start, agents, processes) for start in range(processes)]
    workers = [context.Process(target=work, args=(server.url, share, agents, gate, times)) for share in shares]
    try:
        for worker in workers:
            worker.start()
        gate.wait()
        before = info(server)
        gate.wait()
        after = info(server)
        clients = int(after["connected_clients"]) - 1
        gate.wait()
        marks = [times.get(timeout=60) for _ in range(2 * processes)]
    finally:
        for worker in workers:
            worker.join(60)
        server.stop()
    cpu = sum(float(after[key]) - float(before[key]) for key in ("used_cpu_user", "used_cpu_sys"))
    return {
        "agents": agents,
        "processes": processes,
        "join_s": spread(marks, "join"),
        "rerendezvous_s": spread(marks, "rerendezvous"),
        "commands_per_agent": round((calls(after) - calls(before)) / agents, 2),
        "server_cpu_us_per_agent": round(cpu * 1e6 / agents, 1),
        "connections_per_agent": round(clients / agents, 2),
    }


def beside_torch(agents: int) -> dict[str, object]:
    """The same number of agents as torch's handlers, in two processes as there are two cores: its backend, and ours."""
    if agents > torch_rendezvous.MOST:
        raise SystemExit(f"--peer torch: at most {torch_rendezvous.MOST} agents")
    endpoint = torch_rendezvous.free_endpoint()
    server = Server(find_server(), "--port", endpoint.rpartition(":")[2], "--bind", "127.0.0.1")
    server.start()
    try:
        ours_s = torch_rendezvous.join_s("orchestrator", endpoint, agents, 2)
    finally:
        server.stop()
    peer_s = torch_rendezvous.join_s("c10d", torch_rendezvous.free_endpoint(), agents, 2)
    return {"handler_join_s": ours_s, "peer": "torch c10d", "peer_join_s": peer_s}


def spread(marks: list[tuple[str, float, float]], what: str) -> float:
    """From the first begin to the last end; one machine, so one monotonic clock."""
    chosen = [(began, ended) for name, began, ended in marks if name == what]
    return round(max(ended for _, ended in chosen) - min(began for began, _ in chosen), 3)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=128)
    parser.add_argument("--processes", type=int, default=0, help="0: one, and four from 10,000 agents on")
    parser.add_argument("--peer", choices=["torch"], help="measure torch's own rendezvous beside ours")
    parser.add_argument("--json", action="store_true", help="print JSON (the only form there is)")
    options = parser.parse_args()
    processes = options.processes or (4 if options.agents >= 10_000 else 1)
    found = measure(options.agents, processes)
    if options.peer:
        found |= beside_torch(options.agents)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
