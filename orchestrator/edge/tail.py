"""Shows workers' log files on the console, from one thread for all of them.

Workers write straight into their files (O_APPEND); this reads behind them, so a stalled terminal stalls nobody else
and nothing is lost on disk. Bytes are passed on as they are: no decoding. Invariant: every line on the console begins
with its file's prefix, and a line is only cut when its worker left it unfinished for ``flush_s`` or beyond a chunk.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, Protocol

from orchestrator.core.allowance import Allowance
from orchestrator.edge.inotify import CLOSE_WRITE, Inotify
from orchestrator.edge.tailed import CHUNK, SLOWED, TailedFile

Stream = Literal[1, 2]  # the descriptor of the console that a file is shown on

_TURN = 64 * CHUNK  # then the next file gets its turn, if this one is at a line's start
_LONG_TURN = 1024 * CHUNK  # then also in the middle of a line
_PACE_S = 0.003  # tiny writes are gathered for so long
_POLL_S = 0.1  # where inotify is not to be had


class Screen(Protocol):
    """The part of `Console` that is needed here."""

    def out(self, data: bytes, *, source: object = None, lead: bytes = b"") -> None:
        """Write to stdout."""

    def err(self, data: bytes, *, source: object = None, lead: bytes = b"") -> None:
        """Write to stderr."""

    def tinted(self, text: bytes, stream: int, hue: int) -> bytes:
        """Colour ``text``, where the terminal has colours."""

    def say(self, text: str, style: str | None = None) -> None:
        """Say something of our own."""


class Tailer:
    """Shows every added file until `finish`. `add` and `finish` may be called from any thread, and do not block."""

    def __init__(self, console: Screen, *, flush_s: float = 0.2, bytes_per_s: int | None = None) -> None:
        """``bytes_per_s``: what more is written is left out, by lines, and counted on the console."""
        self._console = console
        self._allowance = Allowance(bytes_per_s, time.monotonic())
        self._flush_s = flush_s
        self._known: set[str] = set()
        self._new: deque[TailedFile] = deque()
        self._files: list[TailedFile] = []
        self._watched: dict[int, TailedFile] = {}
        self._inotify: Inotify | None = None
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._finishing = threading.Event()
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to show what is added."""
        try:
            self._inotify = Inotify()
        except OSError as error:
            self._console.say(f"no inotify ({error.strerror}): workers' output is looked for every {_POLL_S} s", "dim")
        self._thread = threading.Thread(target=self._run, name="tailer", daemon=True)
        self._thread.start()

    def add(
        self,
        path: str | os.PathLike[str],
        prefix: bytes,
        stream: Stream,
        *,
        hue: int | None = None,
        through: Callable[[Callable[..., None]], Callable[..., None]] | None = None,
    ) -> None:
        """Show ``path`` from its beginning; it is created empty if it is missing, so add it before its worker starts.

        ``hue`` colours the prefix on a terminal that can; equal numbers look alike. A second ``add`` of a path changes
        nothing. ``through`` is put before the console. A file that cannot be made is named on the console; no error.
        """
        name = os.fspath(path)
        if name in self._known or self._finishing.is_set():
            return
        self._known.add(name)
        try:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            self._console.say(f"{name}: {error.strerror}; its output is not shown", "warn")
            return
        if hue is not None:
            prefix = self._console.tinted(prefix, stream, hue)
        show = self._console.out if stream == 1 else self._console.err
        self._new.append(TailedFile(name, prefix, through(show) if through is not None else show))
        self._ring()

    def finish(self, timeout_s: float) -> bool:
        """Show what the files hold by now and end; False if the terminal did not take it all in time.

        Then the rest is counted on the console and left in the files.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            if not self._finishing.is_set():
                self._finishing.set()
                os.close(self._bell)
            return True
        self._finishing.set()
        self._ring()
        thread.join(timeout_s)
        if not thread.is_alive():
            return True
        self._abandoned.set()
        left = sum(max(0, file.size() - file.offset) for file in (*self._files, *self._new))
        self._console.say(f"[{left} bytes of workers' output were not shown; the log files have them]", "warn")
        return False

    def _ring(self) -> None:
        os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        ready: Iterable[TailedFile] = ()
        while not self._finishing.is_set():
            fresh = self._adopt()
            more = [file for file in dict.fromkeys((*ready, *fresh, *self._overdue())) if self._pump(file)]
            ready = dict.fromkeys((*more, *self._wait(0 if more else None)))
        self._adopt()
        for file in self._files:
            file.limit = file.size()  # whoever still writes does not keep us
        for file in tuple(self._files):
            while self._pump(file) and not self._abandoned.is_set():
                pass
            if file.left_out and not self._abandoned.is_set():
                file.own_up()
            file.close()
        if self._inotify is not None:
            self._inotify.close()
        os.close(self._bell)  # which nobody rings any more

    def _adopt(self) -> list[TailedFile]:
        """Take the files that were added since; each is watched first and read then, so that no write is missed."""
        fresh = []
        while self._new:
            file = self._new.popleft()
            self._files.append(file)
            fresh.append(file)
            if self._inotify is not None:
                try:
                    self._watched[self._inotify.watch(file.path)] = file
                except OSError as error:  # fs.inotify.max_user_watches; polling serves all files alike
                    self._console.say(f"no inotify ({error.strerror}): output may be shown late", "dim")
                    self._inotify.close()
                    self._inotify = None
        return fresh

    def _overdue(self) -> list[TailedFile]:
        now = time.monotonic()
        return [f for f in self._files if f.unfinished_since is not None and now - f.unfinished_since >= self._flush_s]

    def _pump(self, file: TailedFile) -> bool:
        """Show what is new in ``file``; True if there is more and only its turn is over."""
        try:
            return self._pump_or_raise(file)
        except OSError as error:
            self._console.say(f"{file.path}: {error.strerror}; its output is no longer shown", "warn")
            self._files.remove(file)
            self._watched = {number: other for number, other in self._watched.items() if other is not file}
            file.close()
            return False

    def _pump_or_raise(self, file: TailedFile) -> bool:
        shown = 0
        inside = False
        while shown < _TURN or (inside and shown < _LONG_TURN):
            if self._abandoned.is_set():
                return False
            data = file.read()
            cut = data.rfind(b"\n") + 1
            if cut == 0 and len(data) == CHUNK:
                cut = CHUNK  # a line longer than a chunk is shown in pieces
            if cut:
                self._show(file, data[:cut])
                shown += cut
                inside = not data.endswith(b"\n", 0, cut)
            if len(data) < CHUNK:
                self._rest(file, data[cut:])
                return False
        return True

    def _show(self, file: TailedFile, data: bytes) -> None:
        """Show ``data``, or as many of its lines as the console may be given."""
        if self._allowance.limited:
            left = self._allowance.left(time.monotonic())
            end = data.find(b"\n", left - 1) + 1 if left else 0
            self._allowance.spend(end or (len(data) if left else 0))
            if end or not left:
                if end:
                    file.advance(data[:end])
                if len(data) > end:
                    file.leave_out(len(data) - end, SLOWED)
                return
        file.advance(data)

    def _own_up(self) -> float | None:
        """Name what was left out as soon as there is room for it; returns when that is, if it is not now."""
        if not self._allowance.limited:
            return None
        silent = [file for file in self._files if file.left_out]
        if silent and not self._allowance.left(time.monotonic()):
            return self._allowance.due_s()
        for file in silent:
            file.own_up()
        return None

    def _rest(self, file: TailedFile, data: bytes) -> None:
        """At the end of the file: an unfinished line waits for its end, but not for long."""
        now = time.monotonic()
        if not data:
            if file.idle:
                file.close()
        elif file.limit is not None or now - (file.unfinished_since or now) >= self._flush_s:
            self._show(file, data)
        elif file.unfinished_since is None:
            file.unfinished_since = now

    def _wait(self, limit_s: float | None) -> list[TailedFile]:
        """Wait for news, at most ``limit_s`` and until the next unfinished line is due; returns what changed."""
        due = [file.unfinished_since + self._flush_s for file in self._files if file.unfinished_since is not None]
        room_s = self._own_up()
        due += [] if room_s is None else [room_s]
        limits = [max(0.0, min(due) - time.monotonic())] if due else []
        limits += [] if limit_s is None else [limit_s]
        limits += [] if self._inotify is not None else [_POLL_S]
        descriptors = [self._bell] + ([self._inotify.fd] if self._inotify is not None else [])
        self._sleep_on(descriptors, min(limits) if limits else None)
        if limit_s is None and not self._finishing.is_set():
            self._sleep_on([self._bell], _PACE_S)
        return self._changed()

    def _sleep_on(self, descriptors: list[int], timeout_s: float | None) -> None:
        waiting = select.poll()
        for fd in descriptors:
            waiting.register(fd, select.POLLIN)
        waiting.poll(None if timeout_s is None else timeout_s * 1000)
        with contextlib.suppress(BlockingIOError):  # it was not the bell
            os.eventfd_read(self._bell)

    def _changed(self) -> list[TailedFile]:
        changes = self._inotify.read() if self._inotify is not None else None
        if changes is None:
            return [file for file in self._files if file.size() != file.offset]
        files = []
        for number, mask in changes.items():
            file = self._watched.get(number)
            if file is not None:
                file.idle = bool(mask & CLOSE_WRITE)
                files.append(file)
        return files
