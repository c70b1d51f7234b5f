"""One worker's log file as the console shows it: how far it was read, its prefix, and what had to be left out.

When to read which file, and how much of it may be shown, is `tail`'s business. Invariant: bytes that are passed over
are counted, and named on the console before the next ones of that file.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

CHUNK = 64 * 1024  # beyond 128 KiB malloc gives each buffer back to the kernel, which costs more than it reads
_TIME = b"{time}"
_NAME = re.compile(r"\$\{(\w+)\}|\{(\w+)\}")

SLOWED = "logs.console_bytes_per_s"
TRIMMED = "logs.max_bytes removed them before they were shown"


def render_prefix(template: str, **facts: object) -> bytes:
    """Fill ``{role}``, ``{rank}``, ``{local_rank}``, ``{node}``, ``{round}`` in; torchrun's ``${role_name}`` likewise.

    ``{time}`` is left to each line. Names that are not among ``facts`` stay as they are written.
    """
    known = {**facts, "role_name": facts["role"]} if "role" in facts else facts
    known = {**known, "time": "{time}"}  # torchrun's spelling likewise

    def fill(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return str(known[name]) if name in known else match[0]

    return _NAME.sub(fill, template).encode(errors="surrogateescape")


class TailedFile:
    """``show`` is the console's `out` or `err`."""

    def __init__(self, path: str, prefix: bytes, show: Callable[..., None]) -> None:
        self.path = path
        self.show = show
        self.offset = 0
        self.limit: int | None = None  # show no more than this; set when tailing ends
        self.unfinished_since: float | None = None  # since when an incomplete line waits at ``offset``
        self.idle = True  # nobody seems to write: not kept open, a later write is noticed all the same
        self.left_out = 0  # bytes that were passed over, and not named yet
        self._why = ""
        self._prefix = prefix
        self._timed = _TIME in prefix
        self._fd: int | None = None

    def read(self) -> bytes:
        """The next bytes, without moving on, but over what was cut away. Follows a file that was truncated."""
        data = self._read()
        if data.startswith(b"\0") and self._fd is not None and (start := _next_data(self._fd, self.offset)) is not None:
            self.leave_out(start - self.offset, TRIMMED)
            data = self._read()
        return data

    def _read(self) -> bytes:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        want = CHUNK if self.limit is None else min(CHUNK, max(0, self.limit - self.offset))
        data = os.pread(self._fd, want, self.offset)
        if not data and want and os.fstat(self._fd).st_size < self.offset:
            self.offset = 0
            data = os.pread(self._fd, want, 0)
        return data

    def advance(self, data: bytes) -> None:
        """Show ``data`` and move behind it."""
        self.offset += len(data)
        self.unfinished_since = None
        if self.left_out:
            self.own_up()
        prefix = self._lead()
        if prefix:
            ended = data.endswith(b"\n")
            data = (data[:-1] if ended else data).replace(b"\n", b"\n" + prefix) + (b"\n" if ended else b"")
        self.show(data, source=self, lead=prefix)

    def leave_out(self, size: int, why: str) -> None:
        """Move behind ``size`` bytes without showing them."""
        self.offset += size
        self.unfinished_since = None
        self.left_out += size
        self._why = why

    def own_up(self) -> None:
        """Say how many bytes were passed over since the last time, on a line of its own."""
        said = b"[%d bytes dropped: %s]\n" % (self.left_out, self._why.encode())
        self.left_out = 0
        self.show(said, source=said, lead=self._lead())

    def _lead(self) -> bytes:
        if not self._timed:
            return self._prefix
        now = time.time()
        stamp = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03}"
        return self._prefix.replace(_TIME, stamp.encode())

    def size(self) -> int:
        """The file's size, 0 if it is gone."""
        try:
            return Path(self.path).stat().st_size
        except OSError:
            return 0

    def close(self) -> None:
        """Give the descriptor back; `read` opens the file again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _next_data(fd: int, offset: int) -> int | None:
    """Where a hole that begins at ``offset`` ends; None if there is none, as with zeros that a worker has written."""
    try:
        start = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError:  # ENXIO: nothing but holes from here on
        start = os.fstat(fd).st_size
    return start if start > offset else None
