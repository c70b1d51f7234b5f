"""What each agent offers for MASTER_ADDR and MASTER_PORT."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from types import TracebackType
from typing import Self

_BACKLOG = 4096  # all workers of a large job may knock at once; the kernel may allow fewer


def published_addr(local_addr: str, server_host: str) -> str:
    """The address under which others reach us: that of our connection to the server, which they reach too.

    On the server's own host that is the loopback, where the host's name leads there (as Debian's /etc/hosts has it for
    every host's own name). Then the name by which all know the server is a name of ours.
    """
    if not _is_loopback(local_addr) or not server_host or _is_loopback(server_host):
        return local_addr
    return server_host


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith("localhost.") or host.endswith(".localhost")


class ReservedPort:
    """A port that is ours until `close`: bound with SO_REUSEADDR and *never listened on*.

    The kernel gives it to nobody else, yet the store that worker rank 0 hosts can still bind and listen on it, because
    it sets SO_REUSEADDR as well (ip(7)). A listening or SO_REUSEPORT socket would give it EADDRINUSE.
    """

    def __init__(self, addr: str) -> None:
        self.socket = _bound(addr)
        self.number: int = self.socket.getsockname()[1]

    def close(self) -> None:
        """Give the port back."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ListeningPort(ReservedPort):
    """A port on which clients may knock already; who answers them is found out when one does.

    Where the address is a name, all interfaces listen: on its own host a name often leads to the loopback.
    """

    def __init__(self, addr: str) -> None:
        self.socket = _bound(addr) if _is_literal(addr) else _anywhere()
        self.number = self.socket.getsockname()[1]
        self.socket.setblocking(False)
        self.socket.listen(_BACKLOG)


def _is_literal(addr: str) -> bool:
    try:
        ip_address(addr)
    except ValueError:
        return False
    return True


def _bound(addr: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((addr, 0))
    except OSError:  # a published address need not be one of our interfaces (NAT): any free port will do
        bound.bind(("", 0))
    return bound


def _anywhere() -> socket.socket:
    """On all interfaces, whichever family a name may lead to."""
    if not socket.has_dualstack_ipv6():
        return _bound("")
    bound = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.bind(("::", 0))
    return bound
