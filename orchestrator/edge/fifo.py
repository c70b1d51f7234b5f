"""A named pipe on which this process listens: made, read without waiting, and removed.

What its lines mean is known elsewhere. Invariant: nothing that is written to it raises, waits, or is kept beyond the
greatest length of a line; and no file is ever removed that is not a pipe without a reader.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import struct
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

from orchestrator.core.beats import LINE_MAX

CAPACITY = 1 << 20  # what an unprivileged process may have; some ten thousand words
_CHUNK = 1 << 16
_PREFIX = "watchdog."


class Fifo:
    """One pipe. Opened for writing as well, so that the last writer's exit is no end of it."""

    def __init__(self, path: str) -> None:
        """Raises OSError if it cannot be made."""
        os.mkfifo(path, 0o600)
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with contextlib.suppress(OSError):  # the pages of this user's pipes are used up
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, CAPACITY)
        self._capacity = fcntl.fcntl(self.fd, fcntl.F_GETPIPE_SZ)
        self._rest = b""
        self._too_long = False

    @property
    def overflows(self) -> bool:
        """Whether so much waits that something may have been lost. Pages are not filled to the last byte."""
        (waiting,) = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)))
        return bool(waiting >= self._capacity // 2)

    def lines(self, most: int = CAPACITY) -> Iterator[bytes]:
        """The whole lines among the next ``most`` bytes; one that is too long is an empty line."""
        while most > 0 and (data := self._read()):
            most -= len(data)
            *whole, rest = (self._rest + data).split(b"\n")
            if whole and self._too_long:
                whole[0], self._too_long = b"", False
            yield from (line if len(line) <= LINE_MAX else b"" for line in whole)
            if len(rest) > LINE_MAX:
                rest, self._too_long = b"", True
            self._rest = rest

    def _read(self) -> bytes:
        try:
            return os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Remove it."""
        with contextlib.suppress(OSError):
            Path(self.path).unlink()
        os.close(self.fd)


def make_fifo(wished: str | None, directory: str) -> Fifo:
    """A pipe at ``wished``, or else of a new name in ``directory``, or where there are no pipes among temporary files.

    A pipe at ``wished`` that nobody reads is replaced; anything else there is somebody's, and left alone.
    """
    if wished is not None:
        with contextlib.suppress(OSError):
            _remove_dead(Path(wished))
            return Fifo(str(Path(wished).absolute()))
    with contextlib.suppress(OSError):
        Path(directory).mkdir(parents=True, exist_ok=True)
        for left in Path(directory).glob(f"{_PREFIX}*"):
            _remove_dead(left)
        return Fifo(str(Path(directory, _PREFIX + secrets.token_hex(4)).absolute()))
    return Fifo(str(Path(tempfile.gettempdir(), f"orchestrator-{_PREFIX}{secrets.token_hex(8)}")))


def _remove_dead(path: Path) -> None:
    """Remove a pipe whose reader was killed."""
    with contextlib.suppress(OSError):
        if not stat.S_ISFIFO(path.lstat().st_mode):
            return
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))
        except OSError:  # ENXIO: nobody reads it
            path.unlink()
