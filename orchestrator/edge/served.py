"""The embedded server as the guard runs it for one or several agents, and the wills that they leave with the guard.

Invariant: who asks after a server that cannot be had is told so, also when that was known before it asked.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.edge.embedded import EmbeddedServer
from orchestrator.edge.errorfile import last_lines
from orchestrator.edge.guard.client import GuardClient, GuardEvent, ServerDied, ServerStarted, SpawnFailed

SERVER_HANDLE = 0  # workers' handles begin at 1

Will = tuple[Mapping[str, Any], Sequence[bytes]]


class Served:
    """The server, if there is one, and who uses it."""

    def __init__(self, server: EmbeddedServer | None) -> None:
        self._server = server
        self._clients: dict[object, Callable[[str], None]] = {}
        self._lacking: str | None = None  # why it cannot be had, while that is so

    def start(self, guard: GuardClient) -> None:
        """Have the guard run the server, if there is one."""
        if self._server is not None:
            server = self._server
            guard.serve(
                SERVER_HANDLE,
                server.argv,
                os.environ,
                log=server.log,
                cleanup=server.cleanup,
                stop_signal=signal.SIGKILL,  # it keeps nothing, and its orderly end takes longer than a short job
            )

    def join(self, client: object, hear: Callable[[str], None]) -> None:
        """Have ``client`` told why the server cannot be had, when that is so."""
        self._clients[client] = hear
        if self._lacking is not None:
            asyncio.get_running_loop().call_soon(hear, self._lacking)

    def part(self, client: object) -> None:
        """It need not be told any more."""
        self._clients.pop(client, None)

    def hear(self, event: GuardEvent) -> None:
        """Take note of what befell the server; other events mean nothing here."""
        match event:
            case SpawnFailed(handle=handle) if handle == SERVER_HANDLE:
                self._lose(f"it cannot be started: {os.strerror(event.errno)} (at {event.step})")
            case ServerDied() if event.exit_code:
                self._lose(f"it ended with exit code {event.exit_code}: {self._last_words()}")
            case ServerStarted():
                self._lacking = None
            case _:  # its other comings and goings show in the connection to it
                pass

    def _lose(self, reason: str) -> None:
        self._lacking = reason
        for hear in list(self._clients.values()):
            hear(reason)

    def _last_words(self) -> str:
        if self._server is None:
            return ""
        lines = last_lines(self._server.log, 1)
        return f"{lines[0].strip() if lines else 'it said nothing'} ({self._server.log})"


class Wills:
    """What the guard says to the groups of its agents should this process die."""

    def __init__(self) -> None:
        self._by_owner: dict[object, Will] = {}

    def keep(self, will: Will, owner: object) -> None:
        """Replace ``owner``'s."""
        self._by_owner[owner] = will

    def drop(self, owner: object) -> bool:
        """Forget ``owner``'s; whether there was one."""
        return self._by_owner.pop(owner, None) is not None

    def tell(self, guard: GuardClient) -> None:
        """Tell ``guard`` all of them. It speaks to one server: those count that have the server of the first."""
        address = next((where for where, _ in self._by_owner.values()), None)
        words = [word for where, said in self._by_owner.values() if where == address for word in said]
        guard.will(address, words)
