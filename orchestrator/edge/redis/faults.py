"""What went wrong between us and the server, and whether it may pass.

Judges exceptions of the client library; waits for nothing. Invariant: what may pass is never fatal once a session had
begun, because a server that comes back can be anything for a moment.
"""

from __future__ import annotations

import socket
import ssl
from enum import Enum, auto

from redis.exceptions import AuthenticationError, AuthorizationError, InvalidResponse, ResponseError

_PASSING = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "BUSY", "MISCONF", "NOREPLICAS")


class Fault(Enum):
    """What an error means for whoever sent the command."""

    AWAY = auto()  # refused, reset, silent, loading, read-only: may pass
    WRONG = auto()  # wrong password, not a Redis server, no such host: will not pass by waiting, if it is so at start
    REFUSED = auto()  # the server understood, and will not do it
    BUG = auto()  # our own command was malformed


def judge(error: Exception) -> tuple[Fault, str]:
    """What ``error`` means, and how to say it."""
    said = str(error) or type(error).__name__
    if (wrong := _wrong(error, said)) is not None:
        return Fault.WRONG, wrong
    if isinstance(error, ResponseError):
        # redis-py cuts the code off messages that it has a class for, and inside of scripts it stands anywhere
        code = f"{getattr(error, 'status_code', None) or ''} {said}"
        if "BADARG" in code:
            return Fault.BUG, said
        return (Fault.AWAY if any(word in code for word in _PASSING) else Fault.REFUSED), said
    return Fault.AWAY, said


def _wrong(error: Exception, said: str) -> str | None:
    """What is wrong with the address or the credentials, if that is what ``error`` says."""
    below = error.__cause__ or error.__context__
    if isinstance(error, AuthenticationError | AuthorizationError):
        return f"it refuses the user name or password: {said}"
    if isinstance(error, InvalidResponse):
        return f"it does not speak the Redis protocol: {said:.100}"
    if isinstance(below, socket.gaierror) and below.errno != socket.EAI_AGAIN:
        return f"there is no such host: {below.strerror}"
    if isinstance(below, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {below.verify_message}"
    return None
