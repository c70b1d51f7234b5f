"""A real guard, driven from the test by an asyncio loop that turns only while the test waits."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from orchestrator.edge.guard.client import (
    GuardClient,
    GuardEvent,
    GuardStarted,
    Spawned,
    Stopped,
    become_subreaper,
    sweep_orphans,
)
from orchestrator.edge.guard.launch import launch
from tests.edge.guard.layers import confined, inside
from tests.edge.procs import GENEROUS_S, tagged, wait_until

Event = TypeVar("Event", bound=GuardEvent)


class Agent:
    """What an agent is to its guard: a client, a list of events, and numbers that are never used twice."""

    def __init__(self, home: Path, group: Path | None = None) -> None:
        self.home = home
        self.tag = f"ORCHESTRATOR_TEST={uuid.uuid4().hex}"
        self.events: list[GuardEvent] = []
        self.started: GuardStarted | None = None
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._arrived = asyncio.Event()
        with inside(group):
            self._process = launch()
            self.client = GuardClient(self._process, self._on_event)
            self.client.attach(self._loop)
            self.until(lambda: self.started is not None)

    @property
    def env(self) -> dict[str, str]:
        name, _, value = self.tag.partition("=")
        return {**os.environ, name: value, "HOME_OF_TEST": str(self.home)}

    def _on_event(self, event: GuardEvent) -> None:
        if isinstance(event, GuardStarted):
            self.started = event
        else:
            self.events.append(event)
        self._arrived.set()

    def until(self, condition: Callable[[], bool], limit_s: float = GENEROUS_S) -> None:
        """Turn the loop until the condition holds, looking again at every event."""

        async def turn() -> None:
            while not condition():
                self._arrived.clear()
                await self._arrived.wait()

        async def bounded() -> None:
            await asyncio.wait_for(turn(), limit_s)

        self._loop.run_until_complete(bounded())

    def wait(self, kind: type[Event], number: int | None = None) -> Event:
        """The first event of this kind, for this handle or ticket."""

        def matching() -> list[Event]:
            return [
                event
                for event in self.events
                if isinstance(event, kind)
                and (number is None or number in (getattr(event, "handle", None), getattr(event, "ticket", None)))
            ]

        self.until(lambda: bool(matching()))
        return matching()[0]

    def number(self) -> int:
        return next(self._numbers)

    def spawn(self, *argv: str, **options: str | int | None) -> int:
        """Request a worker; its handle."""
        handle = self.number()
        self.client.spawn(handle, argv, self.env, **options)  # type: ignore[arg-type]
        return handle

    def sh(self, script: str, **options: str | int | None) -> int:
        """Request a worker that runs a shell script; its handle."""
        return self.spawn("/bin/sh", "-c", script, **options)

    def python(self, code: str, **options: str | int | None) -> int:
        """Request a worker that runs Python; its handle."""
        return self.spawn(sys.executable, "-I", "-S", "-c", code, **options)

    def pid_of(self, handle: int) -> int:
        return self.wait(Spawned, handle).pid

    def stop(
        self, *handles: int, grace_s: float = GENEROUS_S, kill_wait_s: float = GENEROUS_S, signum: int = signal.SIGTERM
    ) -> int:
        """Request a stop; its ticket."""
        ticket = self.number()
        self.client.stop(handles, signal=signum, grace_s=grace_s, kill_wait_s=kill_wait_s, ticket=ticket)
        return ticket

    def of_kind(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def round_trip(self) -> None:
        """Wait until the guard has handled all that was asked before: an empty stop is answered at once."""
        self.wait(Stopped, self.stop())

    def quit(self) -> None:
        self._loop.run_until_complete(self.client.quit())

    def close(self) -> None:
        """End the guard if it lives, and see that nothing at all is left."""
        with contextlib.suppress(ProcessLookupError):
            self.quit()
        self._loop.close()
        assert self.started is not None
        sweep_orphans(self.client.pid, home=self.started.cgroup)  # of a guard that the test has killed
        assert self.started.cgroup is None or not Path(self.started.cgroup).exists()
        wait_until(lambda: not tagged(self.tag), "no process of the test is left")


@pytest.fixture
def layer(request: pytest.FixtureRequest) -> str | None:
    """How the guard of a test holds processes together: the strongest way, or what the test says by parameter."""
    return getattr(request, "param", None)


@pytest.fixture
def agent(tmp_path: Path, layer: str | None) -> Iterator[Agent]:
    become_subreaper()  # as the real agent is: what a killed guard leaves must not escape from the test either
    with confined(layer) if layer is not None else contextlib.nullcontext() as group:
        agent = Agent(tmp_path, group)
        try:
            if layer is not None:
                assert agent.started is not None
                assert agent.started.containment == layer
            yield agent
        finally:
            agent.close()
