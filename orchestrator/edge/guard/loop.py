"""An epoll loop with timers: what wakes the guard. It knows descriptors and moments, not what they mean.

Invariant: a turn hands out exits before requests, so that a request never meets a process that has died unnoticed.
"""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


_LONGEST_S = 86_400.0  # epoll counts milliseconds in 32 bits; a longer wait is done in parts


class Timer:
    """A moment on the monotonic clock and what to do then."""

    __slots__ = ("action", "at")

    def __init__(self, at: float, action: Callable[[], None]) -> None:
        self.at = at
        self.action = action


class Loop:
    """Level-triggered epoll; each descriptor has one handler without arguments."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, tuple[int, Callable[[], None]]] = {}
        self._timers: list[Timer] = []

    def __contains__(self, fd: int) -> bool:
        """Whether a descriptor is watched."""
        return fd in self._handlers

    def watch(self, fd: int, handler: Callable[[], None], *, turn: int = 0, urgent: bool = False) -> None:
        """Call ``handler`` whenever ``fd`` can be read; within one turn of the loop, lower ``turn`` numbers first.

        ``urgent``: when it has something out of the ordinary instead, as files of a cgroup that have changed.
        """
        self._epoll.register(fd, select.EPOLLPRI if urgent else select.EPOLLIN)
        self._handlers[fd] = (turn, handler)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def want_write(self, fd: int, wanted: bool) -> None:
        """Whether the handler is to be called when ``fd`` takes data, too."""
        if fd in self._handlers:
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT if wanted else select.EPOLLIN)

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Do something once, later."""
        timer = Timer(time.monotonic() + delay_s, action)
        self._timers.append(timer)
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Forget a timer; none, or one that has fired, is fine."""
        if timer in self._timers:
            self._timers.remove(timer)

    def run_once(self, limit_s: float | None = None) -> None:
        """Wait until something happens, at most ``limit_s``, and hand it out."""
        now = time.monotonic()
        moments = [timer.at for timer in self._timers]
        if moments:
            moments.append(now + _LONGEST_S)
        if limit_s is not None:
            moments.append(now + limit_s)
        ready = self._epoll.poll(max(0.0, min(moments) - now) if moments else None)
        for entry, fd in sorted(((self._handlers[fd], fd) for fd, _ in ready), key=lambda pair: pair[0][0]):
            if self._handlers.get(fd) is entry:  # else an earlier handler of this turn has closed it
                entry[1]()
        now = time.monotonic()
        for timer in [timer for timer in self._timers if timer.at <= now]:
            if timer in self._timers:  # an earlier one may have cancelled it
                self._timers.remove(timer)
                timer.action()
