"""The process's signals while an agent runs. They belong to the process, and therefore here, not to the agent.

Invariant: from `Signals.__enter__` on every signal that ends a run is answered, in whatever state the run is.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import Protocol

from orchestrator.edge.guard.orphans import reap_strangers

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Stoppable(Protocol):
    """An agent, or several."""

    def request_stop(self, signum: int) -> None:
        """Stop because of a signal; when asked again, kill what is still stopping."""

    def forward(self, signum: int) -> None:
        """Pass a signal on to the workers."""


class Signals:
    """The process's signals while an agent runs: once stops, twice kills, a third time ends this process at once.

    Those that pre-empt only ever stop.
    """

    def __init__(self, agent: Stoppable, forward: AbstractSet[int], preempt: AbstractSet[int]) -> None:
        self._agent = agent
        self._asked = 0
        self._forward = forward
        self._preempt = preempt
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # nohup: stays so
        self._stop = {number for number in (*STOP_SIGNALS, *preempt) if not (ignored and number == signal.SIGHUP)}

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        for number in self._stop:
            self._loop.add_signal_handler(number, self._on_stop, int(number))
        for number in self._forward - self._stop:
            self._loop.add_signal_handler(number, self._agent.forward, number)
        if os.getpid() == 1:
            self._loop.add_signal_handler(signal.SIGCHLD, reap_strangers)
            reap_strangers()  # who came earlier

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in self._stop | self._forward | {signal.SIGCHLD}:
            self._loop.remove_signal_handler(number)

    def _on_stop(self, number: int) -> None:
        number = int(signal.SIGTERM) if number == signal.SIGHUP else number  # what differs is who sends it
        self._asked += number not in self._preempt  # a platform may repeat its word while workers save their work
        if self._asked > 2:  # noqa: PLR2004 - once, twice, enough
            os._exit(128 + number)  # the guard sees our end, and cleans up
        self._agent.request_stop(number)
