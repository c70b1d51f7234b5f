"""The fence: the moment after which no worker may run, because others may be starting in its place.

What is to be killed then is the guard's business. Invariant: from that moment on the fence is down, whether its falling
was noticed or not, until a later moment is set.
"""

from __future__ import annotations

import time

from orchestrator.edge.guard import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Fence:
    """One moment of CLOCK_BOOTTIME. That clock, because a lease runs on while the machine sleeps."""

    __slots__ = ("_at_s", "_down", "_fall", "fd")

    def __init__(self, fall: Callable[[float], None]) -> None:
        """``fall`` is called with the moment when that has passed; ``fd`` can be read when it is time to `look`."""
        self.fd = libc.boot_alarm()
        self._fall = fall
        self._at_s: float | None = None
        self._down = False

    def set(self, at_s: float | None) -> None:
        """Have it fall then instead; None: not at all. What is down is raised by a moment that is to come."""
        self._at_s = at_s
        if at_s is not None and at_s > time.clock_gettime(time.CLOCK_BOOTTIME):
            self._down = False
        libc.set_alarm(self.fd, at_s)

    def look(self) -> None:
        """Let it fall if it is time."""
        at_s = self._at_s
        if at_s is not None and at_s <= time.clock_gettime(time.CLOCK_BOOTTIME):
            self.set(None)
            self._down = True
            self._fall(at_s)

    def is_down(self) -> bool:
        """Whether nothing may be started. It falls now if it is time and nobody has looked yet."""
        self.look()
        return self._down
