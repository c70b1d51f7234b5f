"""The process in which the agent has the store served: what it is given, and what it says.

Started by path, with the standard library alone. Invariant: it ends when the agent does, whatever its clients do.
"""

from __future__ import annotations

import resource
import socket

from orchestrator.edge.tcpstore.server import Server

_OURS = 16  # descriptors that no client gets


def main(fd: int) -> None:
    """Serve the listening socket that comes through the control socket ``fd``, until that ends."""
    control = socket.socket(fileno=fd)
    _, given, _, _ = socket.recv_fds(control, 1, 1)
    if not given:
        return  # the agent has ended before it said what to serve
    control.setblocking(False)

    def complain(what: str) -> None:
        try:
            control.send(what.encode() + b"\n")
        except OSError:
            return  # the agent does not listen now; it is about to end us, or will hear of the next one

    def hear() -> None:
        try:
            said = control.recv(1)
        except OSError:  # it has ended without reading all our complaints
            said = b""
        if not said:
            server.stop()

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = Server(socket.socket(fileno=given[0]), complain, clients=hard - _OURS)
    server.watch(fd, hear)
    server.run()
