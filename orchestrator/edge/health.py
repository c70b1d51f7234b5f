"""The health check server, which users can extend, and the board on which the agent's loop shows that it is alive.

The server answers from threads of its own, so that it also answers when the loop is stuck; it reads the board and never
the agent. Invariant: the board is written by the loop alone, each time as one new value, so nobody waits for anybody.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Self

from orchestrator.core.roles import admitted
from orchestrator.core.snapshot import Snapshot, metrics
from orchestrator.core.specs import UNIX, HealthSpec, JobSpec
from orchestrator.edge.httpd import Answer, HttpServer, Request
from orchestrator.edge.journal import Journal, Record, plain
from orchestrator.edge.plugins import imported, problem, said
from orchestrator.errors import ConfigError, Problem

STOP_WITHIN_S = 10.0
KEY = "health.server"
REMEDY = "subclass orchestrator.HealthCheckServer"
BEAT_S = 1.0  # between two turns of a loop that has nothing to do
_HERE = re.compile(r"(?:(?:.+\.)?localhost|127(?:\.[0-9]+){3}|\[::1\])(?::[0-9]+)?", re.IGNORECASE)
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Board:
    """What the agent's loop shows of itself, and when it last turned."""

    def __init__(self, snapshot: Snapshot, mask: Callable[[str], str] = str) -> None:
        self.snapshot = snapshot
        self._mask = mask
        self._turned = time.monotonic()
        self._sources: dict[str, Callable[[], float]] = {
            "the agent's loop": lambda: time.time() - (time.monotonic() - self._turned)  # the wall clock may be set
        }

    def show(self, snapshot: Snapshot) -> None:
        """Replace what is shown. For the loop only: it is the loop's sign of life."""
        self.snapshot = snapshot
        self._turned = time.monotonic()

    def watch(self, name: str, last_turn: Callable[[], float]) -> None:
        """Have something else counted that must be alive, such as a watchdog: ``last_turn`` is in epoch seconds.

        It is called from any thread.
        """
        self._sources[name] = last_turn

    def alive(self) -> int:
        """When whatever turned longest ago turned last, in epoch seconds: torchelastic's ``alive_callback``."""
        return int(min(last_turn() for last_turn in self._sources.values()))

    def slowest(self) -> str:
        """Whose turn that was."""
        return min(self._sources, key=lambda name: self._sources[name]())

    def masked(self, value: Any) -> Any:  # noqa: ANN401 - JSON has no narrower type
        """A value for JSON, without secrets."""
        return plain(value, self._mask)


class HealthCheckServer:
    """Tells by HTTP whether the agent is alive; subclass it to tell more, or to tell it in another way.

    The interface is torchelastic's: ``alive_callback`` returns the epoch seconds at which the watchdog last turned,
    ``port`` is where to listen (0: any free port), and an agent that has not turned for more than ``timeout`` seconds
    is no longer alive. Name a subclass in the configuration as ``health.server: package.module:Class``.

    Override `answer` to add endpoints, or `start` and `stop` to serve something else altogether. ``start`` is called
    before anything else of the job is started and must return; what it raises ends the launcher with exit code 2.
    ``stop`` is called last. A class that does not inherit from this one will do as well, if it has the same three
    arguments and the two methods, as torchelastic's own has.
    """

    ENDPOINTS: ClassVar[tuple[str, ...]] = ("/livez", "/readyz", "/status", "/metrics")

    def __init__(self, alive_callback: Callable[[], int], port: int, timeout: int) -> None:
        self._alive_callback = alive_callback
        self._port = port
        self._timeout = timeout
        self._host = "127.0.0.1"
        self._token: str | None = None
        self._board: Board | None = None
        self._server: HttpServer | None = None

    def attach(self, board: Board, *, host: str, token: str | None) -> None:
        """Called before `start`: what there is to show, where to listen, and what clients must know."""
        self._board, self._host, self._token = board, host, token

    def start(self) -> None:
        """Begin to serve. Raises OSError where the port cannot be had."""
        self._server = HttpServer(self._host, self._port, self._admit)
        self._port = self._server.port
        self._server.start()

    def stop(self) -> None:
        """End serving."""
        if self._server is not None:
            self._server.stop()

    @property
    def url(self) -> str | None:
        """Where it answers; None while it does not."""
        if self._server is None:
            return None
        if self._server.host.startswith(UNIX):
            return self._server.host
        host = f"[{self._server.host}]" if ":" in self._server.host else self._server.host
        return f"http://{host}:{self._server.port}"

    @property
    def snapshot(self) -> Snapshot | None:
        """The agent's last word about itself: immutable, and at most a second old while the agent is alive."""
        return self._board.snapshot if self._board is not None else None

    def not_alive(self) -> str:
        """Why the agent is held to be stuck; empty while it is alive."""
        silent_s = time.time() - self._alive_callback()
        if silent_s <= self._timeout:
            return ""
        who = self._board.slowest() if self._board is not None else "the watchdog"
        return f"{who} has not turned for {silent_s:.0f} s; the limit is {self._timeout:g} s"

    def answer(self, path: str) -> Answer | None:
        """The answer to a request for ``path``; None if there is nothing there. Called from any thread."""
        match path:
            case "/livez":
                return _verdict("alive", self.not_alive())
            case "/readyz":
                shown = self.snapshot
                return _verdict("ready", "nothing is known yet" if shown is None else self.not_alive() or shown.unready)
            case "/status" if self._board is not None:
                why = self.not_alive()
                told = {**self._board.snapshot.to_dict(time.time()), "alive": not why, "why_not_alive": why or None}
                return Answer(200, json.dumps(self._board.masked(told), indent=2) + "\n", "application/json")
            case "/metrics" if self._board is not None:
                text = metrics(self._board.snapshot, time.time(), alive=not self.not_alive())
                return Answer(200, text, _METRICS_TYPE)
            case _:
                return None

    def _admit(self, request: Request) -> Answer:
        if self._token is not None and not _knows(request, self._token):
            said = "give the token: Authorization: Bearer TOKEN\n"
            return Answer(401, said, headers={"WWW-Authenticate": "Bearer"})
        if self._token is None and not self._host.startswith(UNIX) and _is_of_another_host(request, self._host):
            return Answer(403, "ask for it by localhost or 127.0.0.1; under any other name a token is needed\n")
        return self.answer(request.path) or Answer(404, f"nothing is here; there are {', '.join(self.ENDPOINTS)}\n")


def _verdict(word: str, why_not: str) -> Answer:
    return Answer(503, f"not {word}: {why_not}\n") if why_not else Answer(200, f"{word}\n")


def _is_of_another_host(request: Request, own: str) -> bool:
    """Whether a browser may have been led here by a page of somebody else's, whose name points at the loopback."""
    origin = request.headers.get("origin")
    said = [request.headers.get("host", own), own if origin is None else origin.partition("://")[2]]
    return not all(name == own or _HERE.fullmatch(name) for name in said)


def _knows(request: Request, token: str) -> bool:
    from hmac import compare_digest  # noqa: PLC0415 - loads OpenSSL, and few need a token

    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return compare_digest(given.strip().encode(), token.encode()) and scheme.lower() == "bearer"


class Health:
    """The server and the board of one agent, from its start to its end."""

    def __init__(self, job: JobSpec, spec: HealthSpec, mask: Callable[[str], str]) -> None:
        now = time.time()
        each = [
            Snapshot(run_id=job.run_id, group=group.role, node=job.node.name, started=now, since=now)
            for group in admitted(job.groups, job.node.name)
        ]
        first = replace(each[0], others=tuple(each[1:]))
        self.board = Board(first, mask)
        self._spec = spec
        self._mask = mask
        self._server: Any = None
        self._beat: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._server = start_server(self._spec, self.board)
        return self

    def __exit__(self, *_: object) -> None:
        if self._beat is not None:
            self._beat.cancel()
        said = stop_server(self._server)
        if said:
            warnings.warn(self._mask(said), RuntimeWarning, stacklevel=2)

    def follow(self, snapshot: Callable[[], Snapshot], journal: Journal) -> None:
        """Show what the agent does from now on, on the running loop, and tell where it can be asked."""
        loop = asyncio.get_running_loop()

        def show() -> None:
            if self._beat is not None:
                self._beat.cancel()
            self.board.show(snapshot())
            self._beat = loop.call_later(BEAT_S, show)

        def soon(_record: Record) -> None:  # many records in one turn are one change
            if self._beat is not None and self._beat.when() > loop.time():
                self._beat.cancel()
                self._beat = loop.call_at(loop.time(), show)

        show()
        url = getattr(self._server, "url", None)
        journal.write("health_listening", round=0, url=url, server=self._spec.server)
        journal.subscribe(soon)


def start_server(spec: HealthSpec, board: Board) -> Any:  # noqa: ANN401 - the user's class may be anything with `stop`
    """Start the server that ``spec`` names. Raises ConfigError, with the user's own error in it, if that fails."""
    cls = HealthCheckServer if spec.server is None else imported(spec.server, KEY, ("start", "stop"), REMEDY)
    try:
        server = cls(alive_callback=board.alive, port=spec.port, timeout=spec.timeout_s)
        if isinstance(server, HealthCheckServer):
            server.attach(board, host=spec.host, token=spec.token)
        server.start()
    except OSError as error:
        if spec.server is not None and not isinstance(error, ConnectionError) and error.errno is None:
            raise problem(KEY, f"{spec.server!r} cannot be started", error, "correct it") from None
        raise ConfigError([_cannot_listen(spec, error.strerror or str(error))]) from None
    except Exception as error:  # noqa: BLE001 - the user's own code
        who = spec.server or "the health check server"
        raise problem(KEY, f"{who!r} cannot be started", error, "correct it") from None
    return server


def _cannot_listen(spec: HealthSpec, why: str) -> Problem:
    if spec.host.startswith(UNIX):
        return Problem("health.host", f"cannot listen on {spec.host}: {why}", "choose another path")
    fact = f"cannot listen on {spec.host}, port {spec.port}: {why}"
    return Problem("health.port", fact, "choose another, or 0 for a free one")


def stop_server(server: Any) -> str:  # noqa: ANN401 - as above
    """Stop it; returns what went wrong, for a user's class may raise anything or hang, and a job's end must not."""
    trouble: list[str] = []

    def stop() -> None:
        try:
            server.stop()
        except Exception as error:  # noqa: BLE001 - the user's own code
            trouble.append(f"health.server: stop() failed: {said(error)}")

    thread = threading.Thread(target=stop, name="health stop", daemon=True)
    thread.start()
    thread.join(STOP_WITHIN_S)
    if thread.is_alive():
        return f"health.server: stop() has not returned within {STOP_WITHIN_S:g} s"
    return trouble[0] if trouble else ""
