"""The last will: what the guard tells the rendezvous server when its agent has died.

The payloads are made by the agent beforehand and are opaque here, but for this: they are RESP commands, and each gets
one reply. Invariant: delivery ends within the limit, whatever names, networks and servers do.
"""

from __future__ import annotations

import os
import select
import signal

from orchestrator.edge.guard.libc import die_with_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from typing import Any, BinaryIO

LIMIT_S = 2.0


def deliver(address: Mapping[str, Any], payloads: Sequence[bytes], limit_s: float = LIMIT_S) -> bool:
    """Send the payloads over a fresh connection and wait for as many replies. Whether that went well.

    A child does it: name resolution and TLS know no deadline that can be trusted, SIGKILL does.
    """
    guard = os.getpid()
    try:
        pid = os.fork()
    except OSError as problem:  # the others learn of it when our lease lapses
        os.write(2, f"orchestrator guard: the last will was not sent: {problem}\n".encode())
        return False
    if pid == 0:
        status = 1
        try:
            die_with_parent(guard)
            _converse(address, payloads, limit_s)
            status = 0
        except Exception as problem:
            os.write(2, f"orchestrator guard: the last will did not arrive: {problem}\n".encode())
        finally:
            os._exit(status)
    fd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(limit_s * 1000):
        os.kill(pid, signal.SIGKILL)
    os.close(fd)
    return os.waitpid(pid, 0)[1] == 0


def _converse(address: Mapping[str, Any], payloads: Sequence[bytes], limit_s: float) -> None:
    with _connect(address, limit_s) as connection, connection.makefile("rb") as replies:
        connection.sendall(b"".join(payloads))
        for _ in payloads:
            _read_reply(replies)


def _connect(address: Mapping[str, Any], limit_s: float) -> socket.socket:
    import socket  # noqa: PLC0415 - most guards never have a will to deliver

    if "unix" in address:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(limit_s)
        connection.connect(address["unix"])
        return connection
    connection = socket.create_connection((address["host"], address["port"]), limit_s)
    options = address.get("tls")
    if not isinstance(options, dict):
        return connection
    import ssl  # noqa: PLC0415 - 4 MB that only rediss:// needs

    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    unchecked = options.get("ssl_cert_reqs") == "none"
    if unchecked or options.get("ssl_check_hostname", "true").lower() in ("false", "0", "no"):
        context.check_hostname = False
    if unchecked:
        context.verify_mode = ssl.CERT_NONE
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), options.get("ssl_password"))
    return context.wrap_socket(connection, server_hostname=address["host"])


def _read_reply(replies: BinaryIO) -> None:
    """Read one RESP reply to its end. What it says matters to nobody any more."""
    line = replies.readline(65536)
    if not line.endswith(b"\r\n"):
        raise EOFError("the server hung up")
    kind, count = line[:1], line[1:-2]
    if kind in (b"$", b"=") and count != b"-1":
        replies.read(int(count) + 2)
    elif kind in (b"*", b"~", b"%"):
        for _ in range(int(count) * (2 if kind == b"%" else 1)):
            _read_reply(replies)
