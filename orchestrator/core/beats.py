"""What workers say to their watchdog: one line a word, plain enough for ``echo``, or torch's FileTimer requests.

    beat PID            it lives
    step PID NUMBER     it works on this step; a step that does not change is no progress
    enter PID NAME      it enters a section
    leave PID NAME      it leaves it
    stacks PID SIGNAL   on this signal it writes the stacks of its threads to its file for them
    {"version": 1, "pid": PID, "scope_id": TEXT, "expiration_time": EPOCH_S, "signal": N}     negative time: released

Lines are input of anybody who can write to the pipe. Invariant: what cannot be understood costs its own line, and no
line raises; what a PID is, and whose, is judged by whoever has processes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

LINE_MAX = 4096  # bytes, as of PIPE_BUF: up to that a write is whole
SCOPE_MAX = 200  # characters of a scope's name that are kept
_PID_MAX = 1 << 22  # of Linux
_NUMBER_MAX = 10**15
_SIGNAL_MAX = 1 << 10

_WORD = re.compile(rb"(beat|step|enter|leave|stacks) ([0-9]{1,10})(?: ([A-Za-z0-9._-]{1,64}))?\s*")


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life."""

    pid: int


@dataclass(frozen=True, slots=True)
class Step:
    """Progress, if the number is another one than before."""

    pid: int
    number: int


@dataclass(frozen=True, slots=True)
class Enter:
    """A section begins."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class Leave:
    """A section ends."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class Stacks:
    """Stacks can be asked for by this signal."""

    pid: int
    signal: int


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer is set, or set anew: it expires at ``expires`` (epoch seconds). ``signal`` below 1: that is only told."""

    pid: int
    scope: str
    expires: float
    signal: int


@dataclass(frozen=True, slots=True)
class Release:
    """A timer is taken back."""

    pid: int
    scope: str


Word = Beat | Step | Enter | Leave | Stacks | Timer | Release


def parse(line: bytes) -> Word | None:
    """The word that a line, without its newline, holds; None if it holds none."""
    if len(line) > LINE_MAX:
        return None
    if line.startswith(b"{"):
        return _timer(line)
    found = _WORD.fullmatch(line)
    if found is None or not 0 < int(found[2]) <= _PID_MAX:
        return None
    return _word(found[1].decode(), int(found[2]), (found[3] or b"").decode())


def _word(verb: str, pid: int, rest: str) -> Word | None:
    if verb == "beat":
        return None if rest else Beat(pid)
    if verb in ("enter", "leave"):
        return (Enter if verb == "enter" else Leave)(pid, rest) if rest else None
    if not rest.isdecimal() or int(rest) > _NUMBER_MAX:
        return None
    return Step(pid, int(rest)) if verb == "step" else Stacks(pid, int(rest))


def _timer(line: bytes) -> Timer | Release | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    said = said if isinstance(said, Mapping) else {}
    pid, scope, signum = said.get("pid"), said.get("scope_id"), said.get("signal")
    expires = said.get("expiration_time")
    if not (_is_whole(pid) and 0 < pid <= _PID_MAX and isinstance(scope, str)):
        return None
    if not (_is_whole(signum) and abs(signum) < _SIGNAL_MAX):
        return None
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not abs(expires) < _NUMBER_MAX:
        return None  # a number that is none is not less either
    scope = _known(scope)
    return Release(pid, scope) if expires < 0 else Timer(pid, scope, float(expires), signum)


def _known(scope: str) -> str:
    """A scope is told apart by its end as well: default ones are ``FILE#LINE``."""
    half = SCOPE_MAX // 2
    return scope if len(scope) <= SCOPE_MAX else f"{scope[:half]}…{scope[-half:]}"


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
