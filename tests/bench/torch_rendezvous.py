"""How long N of torch's rendezvous handlers take to meet: those of its own c10d backend, or ours behind the same call.

Called by ``rendezvous.py --peer torch``. Handlers are threads, spread over processes; all are made and connected before
the clock starts, and it stops when the last ``next_rendezvous()`` has returned.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any

MOST = 128  # threads and handlers; more would measure this machine
PATIENCE_S = 600


def work(backend: str, endpoint: str, numbers: range, agents: int, tools: tuple[Barrier, Any]) -> None:
    """One process's share of the handlers."""
    from torch.distributed.elastic.rendezvous import RendezvousParameters  # noqa: PLC0415 - once a process, untimed
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler  # noqa: PLC0415

    from orchestrator.edge.torch_handler import create  # noqa: PLC0415

    gate, times = tools

    def handler(number: int) -> Any:  # noqa: ANN401
        if backend == "c10d":
            conf = {"is_host": str(number == 0).lower(), "join_timeout": str(PATIENCE_S)}
            return get_rendezvous_handler(RendezvousParameters("c10d", endpoint, "bench", agents, agents, **conf))
        return create(RendezvousParameters(backend, endpoint, "bench", agents, agents, lease="120"))

    if 0 not in numbers:
        gate.wait(PATIENCE_S)  # the host's store is there before the others connect
    crowd = [handler(number) for number in numbers]
    if 0 in numbers:
        gate.wait(PATIENCE_S)
    with ThreadPoolExecutor(len(crowd)) as pool:
        gate.wait(PATIENCE_S)
        began = time.monotonic()
        infos = list(pool.map(lambda one: one.next_rendezvous(), crowd))
        ended = time.monotonic()
    assert all(info.world_size == agents for info in infos)
    times.put((began, ended))
    gate.wait(PATIENCE_S)  # nobody's store goes before everyone is in
    times.close()
    times.join_thread()
    os._exit(0)  # handlers leave their rendezvous at leisure


def join_s(backend: str, endpoint: str, agents: int, processes: int) -> float:
    """Seconds from the first call to the last return, for so many handlers of ``backend``."""
    processes = min(processes, agents)
    context = multiprocessing.get_context("fork")
    gate, times = context.Barrier(processes), context.Queue()
    shares = [range(start, agents, processes) for start in range(processes)]
    workers = [context.Process(target=work, args=(backend, endpoint, share, agents, (gate, times))) for share in shares]
    for worker in workers:
        worker.start()
    try:
        marks = [times.get(timeout=PATIENCE_S) for _ in workers]
    finally:
        for worker in workers:
            worker.join(5)
            worker.kill()
            worker.join()
    first, last = min(began for began, _ in marks), max(ended for _, ended in marks)
    return float(round(last - first, 3))


def free_endpoint() -> str:
    """A port of the loopback that is free right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
