"""What an error means, and what it shows about the server: the whole table."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from orchestrator.core.lease import Contact
from orchestrator.edge.redis.faults import Fault, Stage, contact, judge
from orchestrator.edge.redis.resp import NotRedisError, ServerError
from orchestrator.edge.redis.route import NotMasterError

AWAY, SILENT, ANSWERED = Contact.AWAY, Contact.SILENT, Contact.ANSWERED
CERTIFICATE = ssl.SSLCertVerificationError("x")
CERTIFICATE.verify_message = "expired"

REPLIES = {
    "LOADING Redis is loading the dataset in memory": (Fault.AWAY, AWAY),
    "READONLY You can't write against a read only replica. script: 0a, on @user_script:12.": (Fault.AWAY, AWAY),
    "ERR Error running script (call to f_0a): @user_script: 12: -READONLY You can't write": (Fault.AWAY, AWAY),
    "MASTERDOWN Link with MASTER is down": (Fault.AWAY, AWAY),
    "CLUSTERDOWN Hash slot not served": (Fault.AWAY, AWAY),
    "TRYAGAIN Multiple keys request during rehashing of slot": (Fault.AWAY, AWAY),
    "ASK 3999 127.0.0.1:6381": (Fault.AWAY, AWAY),
    "MOVED 3999 127.0.0.1:6381": (Fault.AWAY, AWAY),
    "OOM command not allowed when used memory > 'maxmemory'.": (Fault.AWAY, AWAY),
    "BUSY Redis is busy running a script.": (Fault.AWAY, AWAY),
    "MISCONF Redis is configured to save RDB snapshots": (Fault.AWAY, AWAY),
    "NOREPLICAS Not enough good replicas to write.": (Fault.AWAY, AWAY),
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)": (Fault.AWAY, AWAY),
    "ERR max number of clients reached": (Fault.AWAY, AWAY),
    "WRONGPASS invalid username-password pair or user is disabled.": (Fault.WRONG, AWAY),
    "NOAUTH Authentication required.": (Fault.WRONG, AWAY),
    "ERR Protocol error: unauthenticated multibulk length": (Fault.WRONG, AWAY),
    "ERR Protocol error: unauthenticated bulk length": (Fault.WRONG, AWAY),
    "ERR invalid password": (Fault.WRONG, AWAY),
    "ERR Client sent AUTH, but no password is set": (Fault.WRONG, AWAY),
    "ERR AUTH <password> called without any password configured for the default user.": (Fault.WRONG, AWAY),
    "DENIED Redis is running in protected mode": (Fault.WRONG, AWAY),
    "NOPERM this user has no permissions to run the 'evalsha' command": (Fault.WRONG, AWAY),
    "ERR ACL failure in script: User a has no permissions to run the 'zadd' command": (Fault.WRONG, AWAY),
    "ERR unknown command 'EVALSHA'": (Fault.REFUSED, ANSWERED),
    "BUSYGROUP Consumer Group name already exists": (Fault.REFUSED, ANSWERED),
    "WRONGTYPE Operation against a key holding the wrong kind of value": (Fault.REFUSED, ANSWERED),
    "ERR user_script:7: BADARG round": (Fault.BUG, ANSWERED),
}


@pytest.mark.parametrize("text", REPLIES)
def test_an_error_reply_shows_that_the_server_is_there_and_whether_it_serves(text: str) -> None:
    fault, shows = REPLIES[text]
    assert judge(ServerError(text))[0] is fault
    assert {contact(ServerError(text), stage) for stage in Stage} == {shows}


def refused(address: str) -> str:
    return f"[Errno {errno.ECONNREFUSED}] Connect call failed ('{address}', 6379)"


def no_route(address: str, number: int) -> str:
    return f"[Errno {number}] Connect call failed ('{address}', 6379)"


# What it is, what it means; what it shows of an attempt that failed while connecting, on a fresh connection, on an
# open one.
PROBLEMS: dict[str, tuple[Exception, Fault, tuple[Contact, Contact, Contact]]] = {
    "no reply in time": (TimeoutError("no reply"), Fault.AWAY, (SILENT, AWAY, SILENT)),
    "the kernel gave up": (OSError(errno.ETIMEDOUT, "x"), Fault.AWAY, (SILENT, SILENT, SILENT)),
    "refused": (OSError(errno.ECONNREFUSED, "x"), Fault.AWAY, (AWAY, AWAY, AWAY)),
    "reset": (OSError(errno.ECONNRESET, "x"), Fault.AWAY, (AWAY, AWAY, AWAY)),
    "closed while we sent": (OSError(errno.EPIPE, "x"), Fault.AWAY, (AWAY, AWAY, AWAY)),
    "closed before we sent": (ConnectionResetError("Connection lost"), Fault.AWAY, (AWAY, AWAY, AWAY)),
    "closed while we read": (EOFError("x"), Fault.AWAY, (AWAY, AWAY, AWAY)),
    "no such unix socket": (OSError(errno.ENOENT, "x"), Fault.AWAY, (AWAY, AWAY, AWAY)),
    "nobody accepts on it": (OSError(errno.EAGAIN, "x"), Fault.AWAY, (AWAY, AWAY, AWAY)),
    "no route": (OSError(errno.EHOSTUNREACH, "x"), Fault.AWAY, (SILENT, SILENT, SILENT)),
    "no network": (OSError(errno.ENETUNREACH, "x"), Fault.AWAY, (SILENT, SILENT, SILENT)),
    "network down": (OSError(errno.ENETDOWN, "x"), Fault.AWAY, (SILENT, SILENT, SILENT)),
    "aborted here": (OSError(errno.ECONNABORTED, "x"), Fault.AWAY, (SILENT, SILENT, SILENT)),
    "no descriptors left": (OSError(errno.EMFILE, "x"), Fault.AWAY, (SILENT, SILENT, SILENT)),
    "something of the system": (OSError("x"), Fault.AWAY, (SILENT, SILENT, SILENT)),
    "unknown host": (socket.gaierror(socket.EAI_NONAME, "x"), Fault.WRONG, (SILENT, SILENT, SILENT)),
    "no name server": (socket.gaierror(socket.EAI_AGAIN, "x"), Fault.AWAY, (SILENT, SILENT, SILENT)),
    "not Redis": (NotRedisError("x"), Fault.WRONG, (AWAY, AWAY, AWAY)),
    "its certificate": (CERTIFICATE, Fault.WRONG, (AWAY, AWAY, AWAY)),
    "TLS": (ssl.SSLError(1, "x"), Fault.WRONG, (AWAY, AWAY, AWAY)),
    "the end, in the middle of TLS": (ssl.SSLEOFError(8, "x"), Fault.AWAY, (AWAY, AWAY, AWAY)),
    "our certificate": (ValueError("ssl_certfile=x: no such file"), Fault.WRONG, (SILENT, SILENT, SILENT)),
    "no master": (NotMasterError("x"), Fault.AWAY, (AWAY, AWAY, AWAY)),
    "refused by both addresses": (
        OSError(f"Multiple exceptions: {refused('::1')}, {refused('127.0.0.1')}"),
        Fault.AWAY,
        (AWAY, AWAY, AWAY),
    ),
    "refused by one, the other of a family that we have not": (
        OSError(f"Multiple exceptions: {no_route('2001::1', errno.ENETUNREACH)}, {refused('10.0.0.1')}"),
        Fault.AWAY,
        (AWAY, SILENT, SILENT),
    ),
    "refused by one, the other out of reach": (
        OSError(f"Multiple exceptions: {no_route('10.0.0.2', errno.EHOSTUNREACH)}, {refused('10.0.0.1')}"),
        Fault.AWAY,
        (SILENT, SILENT, SILENT),
    ),
}


@pytest.mark.parametrize("what", PROBLEMS)
def test_only_evidence_shows_that_the_server_is_away(what: str) -> None:
    error, fault, shows = PROBLEMS[what]
    assert judge(error)[0] is fault
    assert tuple(contact(error, stage) for stage in (Stage.CONNECTING, Stage.FRESH, Stage.OPEN)) == shows


def test_the_systems_own_words_are_said() -> None:
    assert judge(OSError(f"Multiple exceptions: {refused('::1')}, {refused('127.0.0.1')}"))[1] == "connection refused"
