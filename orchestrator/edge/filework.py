"""A thread that does file work, so that no event loop waits for a disk.

What is to be done to which file is its caller's business. Invariant: what was submitted is done in that order, one at a
time; whoever submits never waits, and whoever waits for a result waits in his own loop.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
Work = Callable[[], object]


class FileThread:
    """One thread, started by the first piece of work. A daemon: a disk that hangs does not keep the process."""

    def __init__(self, name: str, limit: int = 0) -> None:
        """At most ``limit`` pieces of work wait their turn; 0 is no bound."""
        self._name = name
        self._limit = limit
        self._orders: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, work: Work) -> bool:
        """Have ``work`` done, which must not raise; False if too much waits already. From one thread only."""
        if self._limit and self._orders.qsize() >= self._limit:
            return False
        self._orders.put(work)
        if self._thread is None:
            self._thread = threading.Thread(target=_work_off, args=(self._orders,), name=self._name, daemon=True)
            self._thread.start()
        return True

    def ask(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have ``work`` done; the future, of the running loop, has what it returns or raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return  # nobody waits any more
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type] # of ``work``, which has not raised

        def do() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = work()
            except BaseException as caught:  # noqa: BLE001 - it is raised where the result is awaited
                error = caught
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, result, error)

        self.submit(do)
        return future

    def flush(self, within_s: float) -> bool:
        """Wait until all that was submitted is done; False if that takes longer."""
        done = threading.Event()
        return self._thread is None or (self.submit(done.set) and done.wait(within_s))

    def close(self, within_s: float) -> bool:
        """Do what was submitted and end; False if that takes longer, then the rest is still done, unobserved.

        Later work starts another thread.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._orders.put(None)
        self._orders = queue.SimpleQueue()
        thread.join(within_s)
        return not thread.is_alive()


def _work_off(orders: queue.SimpleQueue[Work | None]) -> None:
    while (work := orders.get()) is not None:
        work()
