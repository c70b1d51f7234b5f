"""How to bring an agent into each of its states, and keep it there, so that a test can have something befall it.

No test here. Invariant: whoever is deaf to SIGTERM obeys once there is a file `enough` where its agent was started.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from tests.e2e.conftest import Nodes
from tests.e2e.harness import SLEEP, Launch, python, until
from tests.edge.servers import Server

SLOW = ("restart.backoff.initial_s=500", "restart.backoff.max_s=500", "restart.backoff.reset_after_s=500")
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
ONE_FAILS_ONE_IS_DEAF = python(
    "import os, signal, time",
    DEAF,
    "rank = os.environ['RANK']",
    "open('ready' + rank, 'w').close()",
    "while not (rank == '1' and os.path.exists('ready0')) and not os.path.exists('enough'): time.sleep(0.01)",
    "os._exit(int(rank))",
)


def stopped_guard(run: Launch) -> int:
    """Stop its guard, as early as may be."""
    guard = until(lambda: run.process.poll() is None and guard_of(run), "the guard is there")
    os.kill(guard, signal.SIGSTOP)
    return guard


def guard_of(run: Launch) -> int | None:
    try:
        return run.guard_pid()
    except (OSError, StopIteration):
        return None


def in_preflight(nodes: Nodes, server: Server) -> Launch:
    check = f"{{exec: [{sys.executable}, -c, 'import time; time.sleep(600)'], timeout_s: 600}}"
    return nodes.start("a", f"health.preflight=[{check}]", *SLEEP)


def in_rendezvous(nodes: Nodes, server: Server) -> Launch:
    return nodes.start("a", "nodes=2", *SLEEP)


def in_standby(nodes: Nodes, server: Server) -> Launch:
    spare = ("nodes=1", "rendezvous.spares=1", *SLEEP)
    nodes.start("a", *spare).await_healthy()
    return nodes.start("b", *spare)


def in_starting(nodes: Nodes, server: Server) -> Launch:
    run = nodes.start("a", *SLEEP)
    stopped_guard(run)
    return run


def in_healthy(nodes: Nodes, server: Server) -> Launch:
    return nodes.start("a", *SLEEP)


def in_stopping(nodes: Nodes, server: Server) -> Launch:
    return nodes.start("a", "worker.nproc=2", "stop.grace_s=600", *ONE_FAILS_ONE_IS_DEAF)


def in_draining(nodes: Nodes, server: Server) -> Launch:
    deaf = python("import os, signal, time", DEAF, "while not os.path.exists('enough'): time.sleep(0.01)")
    elastic = ("nodes=1:2", "rendezvous.scale_up_s=0.1", "stop.grace_s=600")
    run = nodes.start("a", *elastic, *deaf)
    run.await_healthy()
    nodes.start("b", *elastic, *deaf)
    return run


def in_deciding(nodes: Nodes, server: Server) -> Launch:
    run = nodes.start("a", *SLEEP)
    (pid,) = run.workers(run.await_healthy()).values()
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    return run


def in_backoff(nodes: Nodes, server: Server) -> Launch:
    return nodes.start("a", *SLOW, *python("raise SystemExit(1)"))


def in_finishing(nodes: Nodes, server: Server) -> Launch:
    ours_is_done = python("import os, time", "if not os.getcwd().endswith('b'): time.sleep(600)")
    nodes.start("a", "nodes=2", *ours_is_done)
    return nodes.start("b", "nodes=2", *ours_is_done)


STATES: dict[str, Callable[[Nodes, Server], Launch]] = {
    "PREFLIGHT": in_preflight,
    "RENDEZVOUS": in_rendezvous,
    "STANDBY": in_standby,
    "STARTING": in_starting,
    "HEALTHY": in_healthy,
    "STOPPING": in_stopping,
    "DRAINING": in_draining,
    "DECIDING": in_deciding,
    "BACKOFF": in_backoff,
    "FINISHING": in_finishing,
}
