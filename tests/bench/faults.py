"""What happens when something dies, and within what time: each row of README's table, measured on real agents.

python tests/bench/faults.py --pairs 3

Every row is a fresh run of two or three agents with lease_s=5 on a server of their own, all on this machine. Times are
seconds from the fault, medians of so many runs: until the others have noticed it, until the workers that it stops are
gone, and until all workers run again. Null: it does not happen, as it should not.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.paired import arguments, await_all, median, show
from tests.chaos.hosts import HostedServer, Hosts, why_not
from tests.e2e.harness import Launch, alive
from tests.edge.servers import Server, binary_of

LEASE_S = 5.0
AT_ONCE = ("restart.backoff.initial_s=0", "restart.backoff.max_s=0", "restart.backoff.reset_after_s=0")
WORKER = ("--", sys.executable, "-c", "import time; time.sleep(600)")


@dataclass
class Times:
    """Seconds from a fault to what follows from it."""

    noticed: float | None = None
    gone: float | None = None
    again: float | None = None


class Run:
    """Agents of one run on a server of its own, with two workers each; on hosts of their own, if there are any."""

    def __init__(self, directory: Path, stack: ExitStack, hosts: Hosts | None = None) -> None:
        self.server = Server(binary_of("valkey")) if hosts is None else HostedServer(hosts["s"])
        self.server.start()
        stack.callback(self.server.stop)
        self.hosts = hosts
        self._directory, self._stack = directory, stack

    def agent(self, name: str, *arguments: str) -> Launch:
        common = ("run_id=bench", f"node.name={name}", f"rendezvous.url={self.server.url}", "worker.nproc=2")
        wrap = self.hosts[name].wrap if self.hosts is not None else ()
        agent = Launch(self._directory / name, (*common, "logs=files", *AT_ONCE, *arguments, *WORKER), None, wrap)
        self._stack.callback(agent.end)
        return agent

    def pair(self, *arguments: str) -> tuple[Launch, Launch]:
        one, other = (self.agent(name, *arguments) for name in "ab")
        for agent in (one, other):
            await_all(lambda agent=agent: nodes_now(agent) == 2, "a round of two nodes")  # type: ignore[misc]
        return one, other


def nodes_now(agent: Launch) -> int:
    """The size of the round in which ``agent`` is HEALTHY now; 0 if it is in none."""
    settled, moved = agent.events("round_settled"), agent.events("transition")
    return settled[-1]["nodes"] if settled and moved and moved[-1]["to"] == "HEALTHY" else 0


def noticed_s(agent: Launch, since: float, *ons: str) -> float:
    """Until the agent's machine has moved because of it."""
    return await_all(lambda: _first_s(agent, since, "transition", lambda record: record["on"] in ons), f"{ons}")


def again_s(agent: Launch, since: float, nodes: int) -> float:
    """Until all of an agent's workers run in a later round of so many nodes."""
    await_all(lambda: nodes_now(agent) == nodes and agent.events("transition", to="HEALTHY")[-1]["ts"] > since, "again")
    return float(agent.events("transition", to="HEALTHY")[-1]["ts"]) - since


def _first_s(agent: Launch, since: float, event: str, fits: Callable[[dict[str, Any]], bool]) -> float | None:
    return next((r["ts"] - since for r in agent.events(event) if r["ts"] >= since and fits(r)), None)


def gone_s(pids: list[int], since: float) -> float:
    """Until none of these processes is left."""
    await_all(lambda: not any(map(alive, pids)), "the workers are gone")
    return time.time() - since


def pids_of(agent: Launch) -> list[int]:
    """The workers of the agent's newest round."""
    return list(agent.workers(agent.events("round_settled")[-1]["round"]).values())


def worker(run: Run) -> Times:
    one, other = run.pair("nodes=2")
    at = time.time()
    os.kill(pids_of(one)[0], signal.SIGKILL)
    return Times(noticed_s(other, at, "peer_failed"), None, max(again_s(one, at, 2), again_s(other, at, 2)))


def agent(run: Run) -> Times:
    one, other = run.pair("nodes=1:2")
    pids, at = pids_of(one), time.time()
    one.signal(signal.SIGKILL)
    gone = gone_s(pids, at)
    return Times(noticed_s(other, at, "round_superseded"), gone, again_s(other, at, 1))


def spare(run: Run) -> Times:
    one, other = run.pair("nodes=2", "rendezvous.spares=1")
    third = run.agent("c", "nodes=2", "rendezvous.spares=1")
    await_all(lambda: third.state_is("STANDBY"), "a spare")
    at = time.time()
    one.signal(signal.SIGKILL)
    again = max(again_s(other, at, 2), again_s(third, at, 2))
    return Times(noticed_s(other, at, "round_superseded"), None, again)


def guard(run: Run) -> Times:
    one, other = run.pair("nodes=2")
    pids, at = pids_of(one), time.time()
    os.kill(one.guard_pid(), signal.SIGKILL)
    gone = gone_s(pids, at)
    return Times(noticed_s(one, at, "guard_lost"), gone, max(again_s(one, at, 2), again_s(other, at, 2)))


def node(run: Run) -> Times:
    one, other = run.pair("nodes=1:2")
    at = time.time()
    for pid in (one.guard_pid(), one.process.pid):
        os.kill(pid, signal.SIGKILL)
    return Times(noticed_s(other, at, "round_superseded"), None, again_s(other, at, 1))


def paused(run: Run) -> Times:
    one, other = run.pair("nodes=1:2")
    pids, at = pids_of(one), time.time()
    one.signal(signal.SIGSTOP)
    gone = gone_s(pids, at)
    times = Times(noticed_s(other, at, "round_superseded"), gone, again_s(other, at, 1))
    one.signal(signal.SIGCONT)
    return times


def isolated(run: Run) -> Times:
    one, other = run.pair("nodes=1:2")
    pids, at = pids_of(one), time.time()
    if run.hosts is not None:
        run.hosts["a"].cut()
    gone = gone_s(pids, at)
    times = Times(noticed_s(other, at, "round_superseded"), gone, again_s(other, at, 1))
    if run.hosts is not None:
        run.hosts["a"].heal()
    return times


def server(run: Run) -> Times:
    one, other = run.pair("nodes=2")
    pids, at = [*pids_of(one), *pids_of(other)], time.time()
    run.server.kill()
    one.await_event("server_lost")
    noticed = one.events("server_lost")[-1]["ts"] - at
    time.sleep(2 * LEASE_S)  # two leases without a server
    run.server.start()  # empty
    for agent_ in (one, other):
        agent_.await_event("server_back")
    await_all(lambda: b"settled" in run.server.say("HGET", "orchestrator:{bench}:default:group", "state"), "restored")
    if not all(map(alive, pids)):
        raise SystemExit("workers were touched by the server's death")
    return Times(noticed, None, None)


ROWS: dict[str, Callable[[Run], Times]] = {
    "a worker": worker,
    "an agent": agent,
    "an agent, with a spare": spare,
    "a guard": guard,
    "a node, without a word": node,
    "an agent is paused": paused,
    "a node is cut off": isolated,
    "the server, for two leases, and its data": server,
}


@contextmanager
def fresh(name: str) -> Iterator[Run]:
    """A run in a directory of its own, of which nothing is left."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, ExitStack() as stack:
        hosts = stack.enter_context(Hosts("s", "a", "b")) if ROWS[name] is isolated else None
        yield Run(Path(directory), stack, hosts)


def main() -> None:
    options = arguments(__doc__ or "", pairs=3)
    found: dict[str, object] = {"lease_s": LEASE_S, "runs": options.pairs}
    for name, row in ROWS.items():
        if row is isolated and why_not():
            found[name] = why_not()
            continue
        times = []
        for _ in range(options.pairs):
            with fresh(name) as run:
                times.append(row(run))
        found[name] = {
            f"{what}_s": median(value for one in times if (value := getattr(one, what)) is not None)
            for what in ("noticed", "gone", "again")
        }
    show(found)


if __name__ == "__main__":
    main()
