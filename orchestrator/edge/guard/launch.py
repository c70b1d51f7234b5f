"""Start the guard: synchronously, with cheap imports, so that it warms up while the agent still loads. Others, too.

What is said to it afterwards is `client`'s business. Invariant: no descriptor of the agent but one end of the
socketpair reaches a helper, and no terminal signal does.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

_MAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
_FD = 3


class Helper:
    """A process that has been started: its pid, which nobody else may reap, and our end of the socketpair."""

    __slots__ = ("pid", "sock")

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.sock = sock


def launch(main: str = _MAIN) -> Helper:
    """Start a guard, or another ``main``, in a session of its own; it lives until this process ends or lets it go."""
    _occupy_standard_descriptors()
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", main, str(_FD)],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), _FD),
                ],
                setsid=True,
                setsigmask=signal.valid_signals(),  # deaf from its first moment; it sorts its signals out itself
            )
        except OSError:
            ours.close()
            raise
    return Helper(pid, ours)


def _occupy_standard_descriptors() -> None:
    """Where we were started with one of them closed: what we print must not go into a socket that got its number."""
    for standard in (0, 1, 2):
        try:
            os.fstat(standard)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
