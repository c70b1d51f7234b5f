"""A worker's line to its watchdog: words into a pipe, without ever waiting; and its stacks into a file, when asked.

The words are those of `core/beats.py`. Used inside workers: standard library only. Invariant: nothing here blocks, and
nothing here raises for what the other end is or does.
"""

from __future__ import annotations

import errno
import os
import re
import time

BEAT_EVERY_S = 0.1  # beats in between are not sent: nobody needs them, and each one wakes the agent
_AGAIN_S = 1.0  # a pipe that cannot be opened is tried again after so long
_UNSENT_MAX = 64  # words that wait for a pipe that is full
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Line:
    """One process's line; a child that was forked uses it as its own. Without ``path`` it leads nowhere."""

    def __init__(self, path: str | None, stacks: str | None = None) -> None:
        self._path = path or None
        self._stacks = stacks or None
        self._fd: int | None = None
        self._next_s = 0.0 if self._path else float("inf")  # when the next beat is due
        self._step: int | None = None
        self._open_at_s = 0.0
        self._unsent: list[str] = []

    def beat(self) -> None:
        """It lives."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + BEAT_EVERY_S
            self._say("beat")

    def step(self, number: int) -> None:
        """It works on this step."""
        if number == self._step:
            return
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s, self._step = now_s + BEAT_EVERY_S, number
            self._say("step", str(int(number)))

    def enter(self, name: str) -> None:
        """A section begins."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a section's name: 1 to 64 of A-Z a-z 0-9 . _ -")
        self._say("enter", name)

    def leave(self, name: str) -> None:
        """It ends."""
        self._say("leave", name)

    def _say(self, verb: str, rest: str = "") -> None:
        """Send a word, after those that found the pipe full; beats need not be sent later."""
        fd = self._fd if self._fd is not None or self._path is None else self._open()
        if fd is None:
            return
        words, self._unsent = [*self._unsent, _line(verb, rest)], []
        for at, word in enumerate(words):
            try:
                os.write(fd, word.encode())
            except BlockingIOError:
                self._unsent = [one for one in words[at:] if not one.startswith(("beat", "step"))][-_UNSENT_MAX:]
                return
            except OSError as problem:
                if problem.errno == errno.EPIPE:  # nobody reads any more
                    os.close(fd)
                self._fd = None  # else it was closed under us, and may be somebody else's by now
                return

    def _open(self) -> int | None:
        now_s = time.monotonic()
        if now_s < self._open_at_s or self._path is None:
            return None
        self._open_at_s = now_s + _AGAIN_S
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        self._offer_stacks()
        return self._fd

    def _offer_stacks(self) -> None:
        """Have a signal that nothing else here uses write the stacks of all threads to the file for them."""
        import faulthandler  # noqa: PLC0415 - only who speaks pays for it
        import signal  # noqa: PLC0415 - as above

        if self._stacks is None:
            return
        free = (n for n in range(signal.SIGRTMAX, signal.SIGRTMIN, -1) if signal.getsignal(n) is signal.SIG_DFL)
        signum = next(free, None)
        try:
            fd = os.open(self._stacks, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        self._stacks = None  # once is enough
        if signum is not None:
            faulthandler.register(signum, file=fd, all_threads=True)
            self._unsent.append(_line("stacks", str(signum)))


def _line(verb: str, rest: str) -> str:
    return f"{verb} {os.getpid()} {rest}".rstrip() + "\n"
