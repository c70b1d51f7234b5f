"""Pipes and sockets that a killed agent leaves in the file system, and how they are told from those of the living.

Invariant: nothing is removed but a pipe that nobody reads and a socket on which nobody listens: another agent may have
made its own in the same place.
"""

from __future__ import annotations

import os
import stat
from errno import ENXIO


def remove(path: str) -> None:
    """Remove what nobody serves any more; anything else there is left alone."""
    try:
        mode = os.lstat(path).st_mode
        if (stat.S_ISFIFO(mode) and not _is_read(path)) or (stat.S_ISSOCK(mode) and not _is_listened_on(path)):
            os.unlink(path)
    except OSError:
        return  # gone; or not to be told, and then not ours to remove


def _is_read(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))
    except OSError as problem:
        if problem.errno != ENXIO:
            raise
        return False
    return True


def _is_listened_on(path: str) -> bool:
    import socket  # noqa: PLC0415 - dear, and rarely needed

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return False
    return True
