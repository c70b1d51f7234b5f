"""What an agent offers for MASTER_ADDR and MASTER_PORT: a new one for each round, and the store behind it.

The store itself is `tcpstore`'s, in a process of its own that is started when the first client knocks: a job that never
asks for it has paid for one listening socket. Invariant: a port is ours before others hear of it, and what was stored
in one round is not seen in the next.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable

from orchestrator.core.rendezvous import Seat
from orchestrator.core.specs import StoreKind
from orchestrator.edge.guard.launch import Helper, launch
from orchestrator.edge.network import ListeningPort, ReservedPort

_MAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tcpstore", "__main__.py")  # noqa: PTH100, PTH118, PTH120


class RoundStore:
    """One agent's, for one group."""

    def __init__(self, kind: StoreKind, log: Callable[..., None]) -> None:
        self._kind = kind
        self._log = log
        self._port: ReservedPort | None = None
        self._helper: Helper | None = None
        self._pidfd = -1  # of its process: whoever reaps everything may do so before us
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard = b""

    def offer(self, addr: str) -> int:
        """Give up what was offered before; returns the port that is offered from now on, 0 if there is to be none."""
        self.close()
        if self._kind is StoreKind.NONE:
            return 0
        self._port = ListeningPort(addr) if self._kind is StoreKind.AGENT else ReservedPort(addr)
        return self._port.number

    def open(self, seat: Seat) -> None:
        """The round has begun: answer those who knock, if it is ours that they were told of."""
        if self._kind is not StoreKind.AGENT or self._port is None:
            return
        if seat.slot != 0:
            self._close_port()  # whoever knocked here would wait for ever
            return
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._port.socket, self._host)

    def close(self) -> None:
        """End the store, and give the port back; the workers of its round are gone."""
        self._close_port()
        if self._helper is not None:
            self._end(self._helper)

    def _host(self) -> None:
        """The first client is here."""
        port = self._port
        if port is None or self._loop is None:
            return
        try:
            helper = self._helper = launch(_MAIN)
            self._pidfd = os.pidfd_open(helper.pid)
            socket.send_fds(helper.sock, [b"!"], [port.socket.fileno()])
        except OSError as problem:
            self._log("store_trouble", reason=f"it could not be started: {problem.strerror}")
            self.close()  # so that its clients hear of it, and fail
            return
        helper.sock.setblocking(False)
        self._loop.add_reader(helper.sock, self._hear, helper)
        addr, number = port.socket.getsockname()[:2]
        self._close_port()  # the helper has it now: if that dies, clients are refused, and do not wait
        self._log("store_opened", addr=addr, port=number, pid=helper.pid)

    def _close_port(self) -> None:
        if self._port is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._port.socket)
        self._port.close()
        self._port = None

    def _hear(self, helper: Helper) -> None:
        try:
            said = helper.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        *lines, self._heard = (self._heard + said).split(b"\n")
        for line in lines:
            self._log("store_trouble", reason=line.decode(errors="replace"))
        if not said:
            how = self._end(helper)
            self._log("store_trouble", reason=f"its process has ended unasked ({how}): what it held is lost")

    def _end(self, helper: Helper) -> str:
        """Reap it, whether it is dead or not; returns how it ended."""
        if self._loop is not None:
            self._loop.remove_reader(helper.sock)
        helper.sock.close()
        self._helper, self._heard = None, b""
        if self._pidfd < 0:
            return "unknown"
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except (ProcessLookupError, ChildProcessError):
            ended = None
        finally:
            os.close(self._pidfd)
            self._pidfd = -1
        if ended is None:
            return "unknown"
        return f"{'exit code' if ended.si_code == os.CLD_EXITED else 'signal'} {ended.si_status}"
