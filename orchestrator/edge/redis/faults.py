"""What went wrong between us and the server: whether it may pass, and whether it shows that the server itself is away.

Judges exceptions; waits for nothing. Invariant: what may pass is never fatal once a session had begun, because a server
that comes back can be anything for a moment.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from enum import Enum, auto

from orchestrator.core.lease import Contact
from orchestrator.edge.redis.resp import PASSING, REFUSES_USER, NotRedisError, ServerError
from orchestrator.edge.redis.route import NotMasterError

_REFUSES_COMMAND = re.compile(r"\bNOPERM\b|ACL failure")
_PEER_GONE = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE})
_NO_SOCKET = frozenset({errno.ENOENT, errno.EAGAIN})  # of a unix socket: not there, or nobody accepts on it
_NO_FAMILY = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class Fault(Enum):
    """What an error means for whoever sent the command."""

    AWAY = auto()  # refused, reset, silent, loading, read-only: may pass
    WRONG = auto()  # wrong password, not a Redis server, no such host: will not pass by waiting, if it is so at start
    REFUSED = auto()  # the server understood, and will not do it
    BUG = auto()  # our own command was malformed


class Stage(Enum):
    """How far an attempt had come when it failed."""

    CONNECTING = auto()
    FRESH = auto()  # the connection was made in this attempt
    OPEN = auto()  # it was there before


def judge(error: Exception) -> tuple[Fault, str]:
    """What ``error`` means, and how to say it."""
    said = _plainly(error)
    if isinstance(error, ServerError):
        return _judge_reply(said)
    wrong = _wrong(error, said)
    return (Fault.AWAY, said) if wrong is None else (Fault.WRONG, wrong)


def _wrong(error: Exception, said: str) -> str | None:
    """What is wrong with the URL or the files that it names, if that is what ``error`` says."""
    match error:
        case socket.gaierror() if error.errno != socket.EAI_AGAIN:
            return f"there is no such host: {error.strerror}"
        case ssl.SSLCertVerificationError():
            return f"its certificate does not hold: {error.verify_message}"
        case ssl.SSLError() if not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return f"TLS with it fails: {getattr(error, 'reason', None) or said}"
        case NotRedisError() | ValueError():
            return f"{said:.200}"
    return None


def _judge_reply(said: str) -> tuple[Fault, str]:
    if "BADARG" in said:
        return Fault.BUG, said
    if REFUSES_USER.search(said):
        return Fault.WRONG, f"it refuses the user name or password: {said}"
    if _REFUSES_COMMAND.search(said):
        return Fault.WRONG, f"it does not let this user do that: {said}; README (Several nodes) has the least rights"
    return (Fault.AWAY if PASSING.search(said) else Fault.REFUSED), said


def contact(error: Exception, stage: Stage) -> Contact:
    """What an attempt that ended with ``error`` shows. AWAY needs evidence: silence may be our own partition.

    Whoever is let in nowhere counts as evidence too: the server is there, and it was not we who were cut off.
    """
    if isinstance(error, ServerError):
        return Contact.ANSWERED if judge(error)[0] in (Fault.REFUSED, Fault.BUG) else Contact.AWAY
    if isinstance(error, TimeoutError) and error.errno is None:  # our own patience has ended
        return Contact.AWAY if stage is Stage.FRESH else Contact.SILENT
    if isinstance(error, socket.gaierror):
        return Contact.SILENT
    if isinstance(error, EOFError | ssl.SSLError | NotMasterError):
        return Contact.AWAY
    if isinstance(error, ConnectionResetError) and error.errno is None:
        return Contact.AWAY  # asyncio's word for a connection that the peer has closed before we sent
    numbers = _errnos(error)
    if stage is Stage.CONNECTING:  # of a name's addresses, those count whose family this host has
        numbers = (numbers - _NO_FAMILY) or numbers
    return Contact.AWAY if numbers and numbers <= _PEER_GONE | _NO_SOCKET else Contact.SILENT


def _errnos(error: Exception) -> frozenset[int]:
    """The system's numbers in ``error``; asyncio gathers those of several addresses in a text."""
    number = getattr(error, "errno", None)
    return frozenset({number} if number else map(int, _ERRNO.findall(str(error))))


def _plainly(error: Exception) -> str:
    """The system's own words, which asyncio hides."""
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror | ssl.SSLError | NotMasterError):
        numbers = _errnos(error)
        if numbers:
            return ", ".join(sorted(os.strerror(number).lower() for number in numbers))
    return str(error) or type(error).__name__
