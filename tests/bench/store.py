"""Operations a second of the store that an agent hosts, beside torch's own server: torch's clients, in the same run.

python tests/bench/store.py
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from torch.distributed import TCPStore

from tests.bench.paired import median, show
from tests.edge.stores import store

VALUE = "v" * 100
OPERATIONS = ("set", "get", "add", "wait")
Times = dict[str, tuple[float, float]]
fork = multiprocessing.get_context("fork")  # so that torch is imported once; nobody has threads yet


def connect(port: int) -> Any:  # noqa: ANN401 - torch is not typed here
    return TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)


def client(number: int, port: int, times: int, go: Barrier, done: Queue[Times]) -> None:
    """Do everything so many times, each kind at the same time as all others do it."""
    one, key, took = connect(port), f"k{number}", {}
    deeds: dict[str, Callable[[], object]] = {
        "set": lambda: one.set(key, VALUE),
        "get": lambda: one.get(key),
        "add": lambda: one.add("n", 1),
        "wait": lambda: one.wait([key]),
    }
    one.set(key, VALUE)
    for name in OPERATIONS:
        deed = deeds[name]
        one.num_keys()
        go.wait()
        began = time.perf_counter()
        for _ in range(times):
            deed()
        one.num_keys()  # what was only sent is done by now
        took[name] = (began, time.perf_counter())
        go.wait()
    done.put(took)


def measured(port: int, clients: int, times: int) -> dict[str, float]:
    """Operations a second of all clients together."""
    go, done = fork.Barrier(clients), fork.Queue()
    crowd = [fork.Process(target=client, args=(n, port, times, go, done)) for n in range(clients)]
    for one in crowd:
        one.start()
    all_took: list[Times] = [done.get() for _ in crowd]
    for one in crowd:
        one.join()
    return {
        name: clients * times / (max(took[name][1] for took in all_took) - min(took[name][0] for took in all_took))
        for name in OPERATIONS
    }


def host_torchs(pipe: Connection) -> None:
    """Torch's server, in a process of its own as ours is."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipe.send(server.port)
    signal.pause()


def torchs(clients: int, times: int) -> dict[str, float]:
    ours, theirs = fork.Pipe()
    process = fork.Process(target=host_torchs, args=(theirs,))
    process.start()
    try:
        return measured(ours.recv(), clients, times)
    finally:
        process.kill()
        process.join()


def agents(clients: int, times: int) -> dict[str, float]:
    with store() as hosted:
        return measured(hosted.port, clients, times)


def first_answer_s() -> float:
    """From the first knock, which has the process started, to its answer."""
    began = time.perf_counter()
    with store() as hosted:
        one = hosted.client()
        one.ping()
        took = time.perf_counter() - began
        one.close()
    return took


def compared(clients: int, pairs: int, times: int) -> dict[str, dict[str, float]]:
    """Operations a second of both, by operation; they take turns."""
    rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(pairs):
        for side, run in (("torch", torchs), ("ours", agents)):
            for name, rate in run(clients, times).items():
                rates[name][side].append(rate)
    return {name: {side: round(median(rates[name][side]) or 0) for side in ("ours", "torch")} for name in OPERATIONS}


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="how many times each side runs")
    parser.add_argument("--times", type=int, default=4000, help="operations of each client")
    parser.add_argument("--json", action="store_true", help="it is JSON anyway")
    options = parser.parse_args()
    found: dict[str, object] = {}
    for clients in (1, 8):
        for name, rate in compared(clients, options.pairs, options.times).items():
            found[f"{name}, {clients} clients"] = {
                "ours_per_s": rate["ours"],
                "torch_per_s": rate["torch"],
                "times_slower": round(rate["torch"] / rate["ours"], 2),
            }
    show(
        {
            "what": "operations a second of the agent's store and of torch's server, torch's clients, 100 bytes",
            "pairs": options.pairs,
            "processors": len(os.sched_getaffinity(0)),
            **found,
            "first_answer_s": median([first_answer_s() for _ in range(9)]),
            "goal": "times_slower <= 3",
        }
    )


if __name__ == "__main__":
    socket.setdefaulttimeout(60)
    main()
