"""Start the guard process: synchronously, with cheap imports, so that it warms up while the agent still loads.

What is said to it afterwards is `client`'s business. Invariant: no descriptor of the agent but one end of the
socketpair reaches the guard, and no terminal signal does.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

_MAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
_FD = 3


class GuardProcess:
    """A guard that has been started: its pid, which nobody else may reap, and our end of the socketpair."""

    __slots__ = ("pid", "sock")

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.sock = sock


def launch() -> GuardProcess:
    """Start a guard in a session of its own; it lives until this process ends or lets it go."""
    _occupy_standard_descriptors()
    ours, theirs = socket.socketpair()
    with theirs:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", _MAIN, str(_FD)],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), _FD),
            ],
            setsid=True,
            setsigmask=signal.valid_signals(),  # deaf from its first moment; it sorts its signals out itself
        )
    return GuardProcess(pid, ours)


def _occupy_standard_descriptors() -> None:
    """Where we were started with one of them closed: what we print must not go into a socket that got its number."""
    for standard in (0, 1, 2):
        try:
            os.fstat(standard)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
