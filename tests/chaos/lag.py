"""How much of a time that was measured is the machine's own: processors and disks that many share stand still at times.

Promises hold for a machine that runs. Invariant: what is counted as lag is time in which this process should have run
and did not, so nothing of it can be blamed on what is tested.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STEP_S = 0.01


class Lag:
    """``s``: how long this process has been kept from running so far, in seconds."""

    def __init__(self) -> None:
        self.s = 0.0
        self._over = threading.Event()

    def watch(self) -> None:
        """Look until the end."""
        while not self._over.is_set():
            before = time.monotonic()
            time.sleep(STEP_S)
            late = time.monotonic() - before - STEP_S
            self.s += late if late > STEP_S else 0.0

    def end(self) -> None:
        self._over.set()


@contextmanager
def lag() -> Iterator[Lag]:
    """Measure the machine's lag meanwhile."""
    made = Lag()
    thread = threading.Thread(target=made.watch, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.end()
        thread.join()
