"""The far end of a console in tests: pipes that are read, or that nobody reads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.edge.procs import wait_until


class Reader:
    """Collects what is written to ``fd``, the write end of a pipe."""

    def __init__(self) -> None:
        self.source, self.fd = os.pipe()
        self.data = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while chunk := os.read(self.source, 1 << 16):
            self.data += chunk

    def all(self) -> bytes:
        """Everything, once the write end is closed."""
        os.close(self.fd)
        self._thread.join()
        os.close(self.source)
        return bytes(self.data)

    def until(self, part: bytes) -> bytes:
        """What there is as soon as ``part`` is among it."""
        wait_until(lambda: part in self.data, f"{part!r} in {bytes(self.data[-200:])!r}")
        return bytes(self.data)


@contextmanager
def stalled() -> Iterator[tuple[int, int]]:
    """A full pipe that nobody reads, as (read end, write end)."""
    source, fd = os.pipe()
    os.set_blocking(fd, False)
    try:
        while True:
            os.write(fd, bytes(4096))
    except BlockingIOError:
        os.set_blocking(fd, True)
    try:
        yield source, fd
    finally:
        os.close(source)  # whoever still writes gets EPIPE
        os.close(fd)
