"""Why a worker failed, from what it left behind: its error file, and the last lines of its log.

Both formats of TORCHELASTIC_ERROR_FILE are read, and the newer one is written for whoever launched us as a worker.
Files of workers are input: reading is bounded, and nothing that a worker can write raises here. Which failure was the
root cause is decided in `core/failures.py`.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.core.failures import Failure, signal_name

_MAX_BYTES = 1 << 20
_MAX_MESSAGE_LINES = 10

_RANK = re.compile(r"^\[[\w-]*rank\d+\]: ?")  # torch's excepthook marks each line of an uncaught traceback
_FRAME = re.compile(r'^\s+File ".*", line \d+')
_EXCEPTION = re.compile(r"^((?:[^\W\d]\w*\.)*[^\W\d]\w*)(?:: (.*))?$", re.DOTALL)
_SUSPECT = re.compile(r"(?:^|\.)[^.]*(?:Error|Exception|Warning|Interrupt|Exit|Timeout|Group|Iteration)$")
_NEXT = ("Traceback (most recent call last):", "During handling of the above", "The above exception was the direct")


class WorkerError(NamedTuple):
    """A worker's own account of its failure; texts may be empty, ``timestamp`` (epoch seconds) may be 0."""

    message: str
    error_type: str
    traceback: str
    timestamp: float


def read_error_file(path: str | os.PathLike[str]) -> WorkerError | None:
    """What the worker wrote to its TORCHELASTIC_ERROR_FILE; None if there is no such file or no sense in it."""
    data = _read_tail(path, _MAX_BYTES + 1)
    if not data or len(data) > _MAX_BYTES:
        return None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):  # cut off by the worker's death, or not ours at all
        return None
    return _worker_error(content)


def write_error_file(path: Path, failure: Failure) -> None:
    """Write ``failure`` as torch does for whoever reads ``path``, in its newer format; an older file is replaced."""
    said = ": ".join(part for part in (failure.error_type, failure.message) if part)
    if not said and failure.signal is not None:
        said = f"Signal {failure.signal} ({signal_name(failure.signal)}) received by PID {failure.pid}"
    extra = {"py_callstack": failure.traceback, "timestamp": str(int(failure.at))}  # torch keeps both as text
    code = failure.exit_code if failure.signal is None else -failure.signal
    message = {"message": said or failure.how(), "extraInfo": extra, "errorCode": code}
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(json.dumps({"message": message}))
    new.replace(path)


def last_lines(path: str | os.PathLike[str], n: int = 20, max_bytes: int = 16384) -> tuple[str, ...]:
    """The last ``n`` lines of a log, at most ``max_bytes`` of it; what is not UTF-8 is replaced.

    Of a line that was rewritten by carriage returns (a progress bar) only its last state. Control characters are
    kept: they are escaped where text is shown.
    """
    return lines_of(_read_tail(path, max_bytes + 1), n, max_bytes)


def lines_of(data: bytes, n: int, max_bytes: int) -> tuple[str, ...]:
    """The same of what was read already: of its end one byte more than ``max_bytes``, where there is more."""
    lines = data.split(b"\n")
    if len(data) > max_bytes and len(lines) > 1:
        del lines[0]  # its beginning is not here
    if lines[-1] == b"":
        del lines[-1]
    shown = (line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines[-n:])
    return tuple(line[-max_bytes:].decode(errors="replace") for line in shown)


def python_error(lines: Sequence[str]) -> tuple[str, str]:
    """Type and message of the uncaught Python exception that ``lines`` of stderr end with; ("", "") if there is none.

    Of chained exceptions the last one, which ended the process; of a group the group, with its first member.
    """
    plain = [_RANK.sub("", line) for line in lines]
    group = _last(plain, "Exception Group Traceback (most recent call last):")
    if group is not None:
        found = _group_error(plain[group + 1 :])
        if found != ("", ""):
            return found
    frames = [index for index, line in enumerate(plain) if _FRAME.match(line)]
    return _first_exception(plain[frames[-1] :]) if frames else ("", "")


def _read_tail(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The last ``max_bytes`` of a regular file; empty if it cannot be read. Never waits, as a FIFO would make it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return b""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return b""
        return os.pread(fd, max_bytes, max(0, status.st_size - max_bytes))
    except OSError:
        return b""
    finally:
        os.close(fd)


def _worker_error(content: object) -> WorkerError | None:
    """``{"message": {"message": …, "extraInfo": {"py_callstack", "timestamp"}}}`` or ``{"message", "timestamp"}``."""
    if not isinstance(content, Mapping):
        return None
    message: object = content.get("message")
    extra: object = content
    if isinstance(message, Mapping):
        extra = message.get("extraInfo")
        message = message.get("message")
    if not isinstance(message, str):
        return None
    if not isinstance(extra, Mapping):
        extra = {}
    traceback = extra.get("py_callstack")
    traceback = traceback if isinstance(traceback, str) else ""
    error_type, text = _split(message, traceback)
    return WorkerError(text, error_type, traceback, _seconds(extra.get("timestamp")))


def _split(message: str, traceback: str) -> tuple[str, str]:
    """Part ``ValueError: boom``; a colon alone does not make a type, so the traceback or the name must agree."""
    match = _EXCEPTION.match(message)
    if match is None:
        return "", message
    name, text = match[1], match[2] or ""
    known = python_error(traceback.splitlines())[0]
    same = known == name or known.endswith(f".{name}")  # tracebacks name the module as well
    return (known if same else name, text) if same or _SUSPECT.search(name) else ("", message)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0.0
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _last(lines: Sequence[str], part: str) -> int | None:
    return next((index for index in reversed(range(len(lines))) if part in lines[index]), None)


def _first_exception(lines: Sequence[str]) -> tuple[str, str]:
    """The exception that follows a frame: the first line that is not indented, and its message's further lines."""
    start = next((index for index, line in enumerate(lines) if line and not line[0].isspace()), None)
    match = _EXCEPTION.match(lines[start]) if start is not None else None
    if start is None or match is None:
        return "", ""
    message = [match[2] or ""]
    for line in lines[start + 1 : start + _MAX_MESSAGE_LINES]:
        if not line.strip() or line.startswith(_NEXT):
            break
        message.append(line)
    return match[1], "\n".join(message)


def _group_error(lines: Sequence[str]) -> tuple[str, str]:
    """The group's own line stands behind a margin of ``  | ``, its members behind deeper ones."""
    own = [line[4:] for line in lines if line.startswith("  | ")]
    name, message = _first_exception(own)
    if not name:
        return "", ""
    members = (_EXCEPTION.match(line[6:]) for line in lines if line.startswith("    | "))
    first = next((match for match in members if match is not None), None)
    return name, f"{message}; first: {first[0]}" if first else message
