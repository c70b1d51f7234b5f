"""The terminal's single writer: workers' bytes, the launcher's own lines, and a panel of lines that change below them.

What is said is decided elsewhere. Invariant: `say` and `panel` never block and nothing here raises for a terminal
that is stalled, closed or gone; `out` and `err` block with their own device, so only a thread of its own may call them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

STYLES = {"bold": b"\x1b[1m", "dim": b"\x1b[2m", "bad": b"\x1b[31m", "good": b"\x1b[32m", "warn": b"\x1b[33m"}
_RESET = b"\x1b[0m"
_HUES = tuple(b"\x1b[%dm" % number for number in (36, 33, 32, 35, 34, 96, 93, 92, 95, 94))  # red is for what is bad
_Styled = tuple[str, str | None]  # a line and its style
_NOBODY = object()

# C0 but tab and newline, DEL, C1, what reorders text on the screen, and surrogates, which no terminal can be sent.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    r"""``text`` with control characters spelled out (``\x1b``), so that it cannot steer a terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


@dataclass(slots=True)
class _Line:
    """The line a device's cursor is in. Two descriptors of one device share it."""

    pen: threading.Lock = field(default_factory=threading.Lock)  # held while writing, however long the device takes
    owner: object = _NOBODY  # whose text stands before the cursor, when that is not the line's start


@dataclass(slots=True)
class _Sink:
    """One descriptor, and whether it still takes bytes."""

    fd: int
    line: _Line
    gone: bool = False

    def write(self, data: bytes) -> None:
        """Write all of ``data``, waiting as long as that takes; a reader that has left is remembered, not raised."""
        view = memoryview(data)
        while view and not self.gone:
            try:
                view = view[os.write(self.fd, view) :]
            except BlockingIOError:  # whoever shares this terminal made it non-blocking
                ready = select.poll()
                ready.register(self.fd, select.POLLOUT)
                ready.poll()
            except OSError as error:
                if error.errno == errno.ENOSPC:  # redirected to a full disk: this text is lost, later text may not be
                    return
                self.gone = True


@dataclass(slots=True)
class _Queue:
    """What the launcher wants to say, until the terminal takes it."""

    limit: int
    lines: deque[_Styled] = field(default_factory=deque)
    dropped: int = 0
    panel: tuple[_Styled, ...] = ()
    stale: bool = False  # what is below on the screen is not ``panel``
    closing: bool = False

    def push(self, text: str, style: str | None) -> None:
        """Append, or count what does not fit."""
        if len(self.lines) < self.limit:
            self.lines.append((text, style))
        else:
            self.dropped += 1

    def take(self) -> list[_Styled]:
        """All lines, with a word about those that did not fit."""
        lines = list(self.lines)
        if self.dropped:
            lines.append((f"[{self.dropped} lines of the launcher were dropped: the terminal was stalled]", "dim"))
        self.lines.clear()
        self.dropped = 0
        return lines


class Console:
    """Writes to the terminal behind ``out_fd`` and ``err_fd``; all methods may be called from any thread.

    ``mask`` hides secrets in the launcher's own lines; workers' bytes pass untouched. Colours need a terminal, no
    ``NO_COLOR`` and a ``TERM`` that is not ``dumb``; the panel needs the terminal.
    """

    def __init__(
        self,
        out_fd: int = 1,
        err_fd: int = 2,
        *,
        environ: Mapping[str, str] | None = None,
        mask: Callable[[str], str] = str,
        max_queued: int = 1000,
    ) -> None:
        environ = os.environ if environ is None else environ
        line = _Line()
        self._err = _Sink(err_fd, line)
        self._out = _Sink(out_fd, line if _same_device(out_fd, err_fd) else _Line())
        self.live = _is_terminal(err_fd) and environ.get("TERM", "dumb") != "dumb"
        self.colour = self.live and not environ.get("NO_COLOR")
        self._colours = {1: self.colour and _is_terminal(out_fd), 2: self.colour}
        self._mask = mask
        self._drawn = b""  # the panel on the screen
        self._queue = _Queue(max_queued)
        self._news = threading.Condition()  # guards the queue; never held while writing
        self._writer: threading.Thread | None = None

    def out(self, data: bytes, *, source: object = None, lead: bytes = b"") -> None:
        """Write a worker's bytes to stdout; ``lead`` is put before them unless ``source`` is inside its own line."""
        self._pass_on(self._out, data, source, lead)

    def err(self, data: bytes, *, source: object = None, lead: bytes = b"") -> None:
        """Write a worker's bytes to stderr; as `out`."""
        self._pass_on(self._err, data, source, lead)

    def tinted(self, text: bytes, stream: int, hue: int) -> bytes:
        """``text`` in one of some colours, if descriptor ``stream`` (1 or 2) shows any; equal numbers look alike."""
        return _HUES[hue % len(_HUES)] + text + _RESET if text and self._colours[stream] else text

    def say(self, text: str, style: str | None = None, *, masked: bool = True) -> None:
        """Queue the launcher's own line(s) for stderr, control characters escaped; ``style`` is a key of STYLES.

        ``masked=False`` is for a secret that was made to be read from the screen.
        """
        with self._news:
            self._queue.push(self._mask(text) if masked else text, style)
            self._wake()

    def status(self, text: str | None) -> None:
        """Show ``text`` as the line below everything else, or nothing; ignored where there is no live terminal."""
        self.panel([] if text is None else [(text, "dim")])

    def panel(self, lines: Sequence[_Styled]) -> None:
        """Show ``lines`` below everything else, each cut to the terminal's width; as `status`."""
        if self.live:
            with self._news:
                self._queue.panel, self._queue.stale = tuple(lines), True
                self._wake()

    def close(self, timeout_s: float) -> bool:
        """Erase the panel and write what was said; False if the terminal did not take it in time.

        What is said later is still written, by a thread that nobody waits for.
        """
        with self._news:
            self._queue.closing = True
            if self._queue.panel:
                self._queue.panel, self._queue.stale = (), True
            self._news.notify_all()
            writer = self._writer
        if writer is None:
            return True
        writer.join(timeout_s)
        return not writer.is_alive()

    def _wake(self) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_queued, name="console", daemon=True)
            self._writer.start()
        self._news.notify_all()

    def _write_queued(self) -> None:
        queue = self._queue
        while True:
            with self._news:
                while not (queue.lines or queue.stale):
                    if queue.closing:
                        self._writer = None
                        return
                    self._news.wait()
                lines, panel = queue.take(), queue.panel
                stale, queue.stale = queue.stale, False
            with self._err.line.pen:
                self._write_lines(lines)
                if stale:
                    self._redraw(panel)

    def _write_lines(self, lines: list[_Styled]) -> None:
        data = b"".join(self._rendered(part, style) for text, style in lines for part in text.split("\n"))
        if data:
            self._place(self._err, data, None, b"")

    def _rendered(self, text: str, style: str | None) -> bytes:
        return self._styled(escape(text), style) + b"\n"

    def _styled(self, text: str, style: str | None) -> bytes:
        line = text.encode(errors="backslashreplace")
        return STYLES.get(style, b"") + line + _RESET if style and self.colour and line else line

    def _pass_on(self, sink: _Sink, data: bytes, source: object, lead: bytes) -> None:
        if data:
            with sink.line.pen:
                self._place(sink, data, source, lead)

    def _place(self, sink: _Sink, data: bytes, source: object, lead: bytes) -> None:
        """Write where no line of another source is cut, around the panel. Its pen is held."""
        line = sink.line
        below = self._drawn if line is self._err.line else b""  # on the screen only while no line is open
        if below and line.owner is _NOBODY:
            self._err.write(_eraser(below))
        if line.owner is not source:
            data = b"".join((b"" if line.owner is _NOBODY else b"\n", lead, data))
        sink.write(data)
        line.owner = _NOBODY if data.endswith(b"\n") else source
        if below and line.owner is _NOBODY:
            self._err.write(below)

    def _redraw(self, panel: Sequence[_Styled]) -> None:
        inside = self._err.line.owner is not _NOBODY  # a worker's unfinished line is there: wait until it ends
        before, self._drawn = self._drawn, self._fitted(panel)
        if not inside and (before or self._drawn):
            self._err.write((_eraser(before) if before else b"") + self._drawn)

    def _fitted(self, panel: Sequence[_Styled]) -> bytes:
        columns, rows = 80, 24
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._err.fd)
            columns, rows = size.columns or columns, size.lines or rows
        most = max(1, rows - 1)  # what has left the screen cannot be erased any more; the last lines are kept
        flat = (
            (escape(self._mask(text)).replace("\n", " ").replace("\t", " "), style) for text, style in panel[-most:]
        )
        lines = ((cut(text, columns - 1), style) for text, style in flat)
        return b"\n".join(self._styled(text, style) for text, style in lines)


def cut(text: str, columns: int) -> str:
    """As much of ``text`` as fits: Chinese characters and most emoji take two columns, and accents none."""
    if text.isascii():
        return text[:columns]
    import unicodedata  # noqa: PLC0415 - few texts need it

    left = columns
    for at, letter in enumerate(text):
        left -= 2 if unicodedata.east_asian_width(letter) in "WF" else int(not unicodedata.combining(letter))
        if left < 0:
            return text[:at]
    return text


def _eraser(drawn: bytes) -> bytes:
    """What takes a panel from the screen, with the cursor at its end."""
    above = drawn.count(b"\n")
    return b"\r\x1b[%dA\x1b[J" % above if above else b"\r\x1b[2K"


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _same_device(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False
