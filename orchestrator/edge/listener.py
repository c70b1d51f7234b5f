"""A socket that listens: on TCP, or on a path of the file system that only its owner can reach.

Invariant: nobody else could ever connect to a path of ours; and a path that somebody serves is never taken from him.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from orchestrator.core.specs import UNIX

BACKLOG = 16


def listening(host: str, port: int) -> socket.socket:
    """Listen on ``host``, which may be ``unix:PATH``. Raises OSError where that is not possible."""
    if host.startswith(UNIX):
        return _on_path(host.removeprefix(UNIX))
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of our own last run, in TIME_WAIT
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def forget(listener: socket.socket) -> None:
    """Close it, and remove its path."""
    path = listener.getsockname() if listener.family == socket.AF_UNIX else None
    listener.close()
    if path:
        with contextlib.suppress(OSError):
            Path(path).unlink()


def _on_path(path: str) -> socket.socket:
    _clear(Path(path))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        Path(path).chmod(stat.S_IRUSR | stat.S_IWUSR)
        listener.listen(BACKLOG)  # only now can anybody connect
    except BaseException:
        listener.close()
        raise
    return listener


def _clear(path: Path) -> None:
    """Remove what a dead process has left there. Raises OSError if it is anything else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "there is a file that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except FileNotFoundError:
            return
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
