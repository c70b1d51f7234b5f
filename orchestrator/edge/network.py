"""The port that each agent offers for MASTER_PORT."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self


class ReservedPort:
    """A port that is ours until `close`: bound with SO_REUSEADDR and *never listened on*.

    The kernel gives it to nobody else, yet the store that worker rank 0 hosts can still bind and listen on it, because
    it sets SO_REUSEADDR as well (ip(7)). A listening or SO_REUSEPORT socket would give it EADDRINUSE.
    """

    def __init__(self, addr: str) -> None:
        family = socket.AF_INET6 if ":" in addr else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((addr, 0))
        except OSError:  # a published address need not be one of our interfaces (NAT): any free port will do
            self._socket.bind(("", 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
