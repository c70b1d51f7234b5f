"""Shows workers' log files on the console, from one thread for all of them.

Workers write straight into their files (O_APPEND); this reads behind them, so a stalled terminal stalls nobody else
and nothing is lost on disk. Bytes are passed on as they are: no decoding. Invariant: every line on the console begins
with its file's prefix, and a line is only cut when its worker left it unfinished for ``flush_s`` or beyond a chunk.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, Protocol

from orchestrator.edge.inotify import CLOSE_WRITE, Inotify

Stream = Literal[1, 2]  # the descriptor of the console that a file is shown on

CHUNK = 64 * 1024  # beyond 128 KiB malloc gives each buffer back to the kernel, which costs more than it reads
_TURN = 64 * CHUNK  # then the next file gets its turn, if this one is at a line's start
_LONG_TURN = 1024 * CHUNK  # then also in the middle of a line
_PACE_S = 0.003  # tiny writes are gathered for so long
_POLL_S = 0.1  # where inotify is not to be had

_NAME = re.compile(r"\$\{(\w+)\}|\{(\w+)\}")


def render_prefix(template: str, **facts: object) -> bytes:
    """Fill ``{role}``, ``{rank}``, ``{local_rank}``, ``{node}``, ``{round}`` in; torchrun's ``${role_name}`` likewise.

    Names that are not among ``facts`` stay as they are written.
    """
    known = {**facts, "role_name": facts["role"]} if "role" in facts else facts

    def fill(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return str(known[name]) if name in known else match[0]

    return _NAME.sub(fill, template).encode(errors="surrogateescape")


class Screen(Protocol):
    """The part of `Console` that is needed here."""

    def out(self, data: bytes, *, source: object = None, lead: bytes = b"") -> None:
        """Write to stdout."""

    def err(self, data: bytes, *, source: object = None, lead: bytes = b"") -> None:
        """Write to stderr."""

    def say(self, text: str, style: str | None = None) -> None:
        """Say something of our own."""


class _File:
    """One log file and how far it was shown."""

    def __init__(self, path: str, prefix: bytes, show: Callable[..., None]) -> None:
        self.path = path
        self.prefix = prefix
        self.show = show
        self.offset = 0
        self.limit: int | None = None  # show no more than this; set when tailing ends
        self.unfinished_since: float | None = None  # since when an incomplete line waits at ``offset``
        self.idle = True  # nobody seems to write: not kept open, a later write is noticed all the same
        self._fd: int | None = None

    def read(self) -> bytes:
        """The next bytes, without moving on. Follows a file that was truncated under its writer."""
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
        if self.prefix:
            ended = data.endswith(b"\n")
            data = (data[:-1] if ended else data).replace(b"\n", b"\n" + self.prefix) + (b"\n" if ended else b"")
        self.show(data, source=self, lead=self.prefix)

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


class Tailer:
    """Shows every added file until `finish`. `add` and `finish` may be called from any thread, and do not block."""

    def __init__(self, console: Screen, *, flush_s: float = 0.2) -> None:
        self._console = console
        self._flush_s = flush_s
        self._known: set[str] = set()
        self._new: deque[_File] = deque()
        self._files: list[_File] = []
        self._watched: dict[int, _File] = {}
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

    def add(self, path: str | os.PathLike[str], prefix: bytes, stream: Stream) -> None:
        """Show ``path`` from its beginning; it is created empty if it is missing, so add it before its worker starts.

        A second ``add`` of a path changes nothing. A file that cannot be made is named on the console; no error.
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
        self._new.append(_File(name, prefix, self._console.out if stream == 1 else self._console.err))
        self._ring()

    def finish(self, timeout_s: float) -> bool:
        """Show what the files hold by now and end; False if the terminal did not take it all in time.

        Then the rest is counted on the console and left in the files.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._finishing.set()
        self._ring()
        thread.join(timeout_s)
        if not thread.is_alive():
            os.close(self._bell)
            return True
        self._abandoned.set()
        left = sum(max(0, file.size() - file.offset) for file in (*self._files, *self._new))
        self._console.say(f"[{left} bytes of workers' output were not shown; the log files have them]", "warn")
        return False

    def _ring(self) -> None:
        os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        ready: Iterable[_File] = ()
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
            file.close()
        if self._inotify is not None:
            self._inotify.close()

    def _adopt(self) -> list[_File]:
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

    def _overdue(self) -> list[_File]:
        now = time.monotonic()
        return [f for f in self._files if f.unfinished_since is not None and now - f.unfinished_since >= self._flush_s]

    def _pump(self, file: _File) -> bool:
        """Show what is new in ``file``; True if there is more and only its turn is over."""
        try:
            return self._pump_or_raise(file)
        except OSError as error:
            self._console.say(f"{file.path}: {error.strerror}; its output is no longer shown", "warn")
            self._files.remove(file)
            self._watched = {number: other for number, other in self._watched.items() if other is not file}
            file.close()
            return False

    def _pump_or_raise(self, file: _File) -> bool:
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
                file.advance(data[:cut])
                shown += cut
                inside = not data.endswith(b"\n", 0, cut)
            if len(data) < CHUNK:
                self._rest(file, data[cut:])
                return False
        return True

    def _rest(self, file: _File, data: bytes) -> None:
        """At the end of the file: an unfinished line waits for its end, but not for long."""
        now = time.monotonic()
        if not data:
            if file.idle:
                file.close()
        elif file.limit is not None or now - (file.unfinished_since or now) >= self._flush_s:
            file.advance(data)
        elif file.unfinished_since is None:
            file.unfinished_since = now

    def _wait(self, limit_s: float | None) -> list[_File]:
        """Wait for news, at most ``limit_s`` and until the next unfinished line is due; returns what changed."""
        due = [file.unfinished_since + self._flush_s for file in self._files if file.unfinished_since is not None]
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

    def _changed(self) -> list[_File]:
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
