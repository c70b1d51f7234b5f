"""A terminal's screen in tests: a real device, and what a person would see of what was written to it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from tests.edge.procs import wait_until

_PIECE = re.compile(r"\x1b\[(\d*)([AJKm])|\r|\n|[^\x1b\r\n]+")


class Screen:
    """Knows as much of a terminal's language as `Console` speaks; anything else fails the test."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns = columns
        self.master, self.fd = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.set_blocking(self.master, False)
        self.data = b""

    def lines(self) -> list[str]:
        """All that was ever written and not erased again, what has scrolled away included."""
        try:
            while chunk := os.read(self.master, 65536):
                self.data += chunk
        except BlockingIOError:
            pass
        return self._drawn(self.data.decode(errors="ignore"))

    def _drawn(self, text: str) -> list[str]:
        drawn, row, column = [""], 0, 0
        at = 0
        while at < len(text):
            piece = _PIECE.match(text, at)
            if piece is None:  # half of a sequence, whose end is still to come
                assert len(text) - at < 10, f"the terminal is told {text[at : at + 20]!r}"
                break
            at = piece.end()
            if piece[0] == "\r":
                column = 0
            elif piece[0] == "\n":
                row += 1
                drawn += [""] * (row + 1 - len(drawn))
            elif piece[2] == "A":
                row -= int(piece[1])
                assert row >= 0
            elif piece[2] == "J":
                drawn[row:] = [drawn[row][:column]]
            elif piece[2] == "K":
                assert piece[1] == "2"
                drawn[row] = ""
            elif piece[2] is None:
                line = drawn[row].ljust(column)
                drawn[row] = line[:column] + piece[0] + line[column + len(piece[0]) :]
                column += len(piece[0])
        return drawn

    def shows(self, *lines: str) -> None:
        """Wait until the screen shows exactly these lines."""
        wait_until(lambda: self.lines() == list(lines), f"{lines} instead of {self.lines()}")


@contextmanager
def screen(columns: int = 80, rows: int = 24) -> Iterator[Screen]:
    """A screen of that size."""
    made = Screen(columns, rows)
    try:
        yield made
    finally:
        os.close(made.master)
        os.close(made.fd)
