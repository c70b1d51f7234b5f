"""A virtual clock for a real server: the scripts of production, in which only TIME has another answer.

Commands go over a plain blocking link, so that a coroutine of a store stops only where the world wants it to: before
each command. The world decides there what becomes of it. Invariant: what is sent is production's script, keys and
arguments, with one line before the script and one argument behind the others.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from enum import Enum, auto
from typing import Any, TypeVar

from orchestrator.core.address import Address
from orchestrator.core.lease import OnAttempt
from orchestrator.edge.redis.connection import Connection, found_in
from orchestrator.edge.redis.link import Link
from orchestrator.edge.redis.resp import Reply, ServerError
from orchestrator.edge.redis.route import Route
from orchestrator.edge.redis.scripts import Script
from orchestrator.edge.redis.streams import Entry

PATIENCE_S = 20.0
PROLOGUE = (
    "local instant = tonumber(table.remove(ARGV)) "
    "local redis = setmetatable({call = function(what, ...) "
    "if what ~= 'TIME' then return redis.call(what, ...) end "
    "return {tostring(math.floor(instant / 1000)), tostring(instant % 1000 * 1000)} end}, {__index = redis})\n"
)
T = TypeVar("T")


class Fate(Enum):
    """What becomes of a command on its way."""

    ANSWERED = auto()
    TWICE = auto()  # executed twice, answered by the second execution
    LOST = auto()  # executed, but the reply is lost: production sends it again


class QuietError(Exception):
    """There is nothing more in the stream for now."""


class Gate:
    """Where a command waits for its fate."""

    def __await__(self) -> Generator[None, Fate, Fate]:
        return (yield)


def finish(task: Coroutine[None, Fate | None, T], fate: Fate | None = None) -> T:
    """Let all commands of a coroutine be answered; ``fate`` is that of the one it stands at."""
    try:
        while True:
            task.send(fate)
            fate = Fate.ANSWERED
    except StopIteration as end:
        result: T = end.value
        return result


def text(reply: Reply) -> Any:  # noqa: ANN401 - replies are what the scripts make of them
    """A reply with texts for bytes, as production reads it."""
    if isinstance(reply, bytes):
        return reply.decode()
    return [text(part) for part in reply] if isinstance(reply, list) else reply


class VirtualConnection(Connection):
    """A connection on a clock that the world sets. ``on_reply`` hears of every command that was executed."""

    def __init__(
        self, url: str, now_ms: Callable[[], int], on_reply: Callable[[str, tuple[str | int, ...], object], None]
    ) -> None:
        super().__init__(Address.from_url(url))
        self._link = Link.to_server(Route(self.address), PATIENCE_S)
        self._now_ms = now_ms
        self._on_reply = on_reply
        self._shas: dict[str, str] = {}
        self.texts: dict[str, str] = {}  # what the server was given to execute
        self.sent: tuple[str | int, ...] = ()  # the last command

    async def call(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[str | int],
        *,
        within_s: float | None = None,
        on_attempt: OnAttempt | None = None,
    ) -> object:
        """Execute a command when the world lets it go."""
        while True:
            fate = await Gate()
            reply = self._execute(script, keys, args)
            if fate is Fate.TWICE:
                reply = self._execute(script, keys, args)
            if fate is not Fate.LOST:
                return reply

    def _execute(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> object:
        rest = (len(keys), *keys, *args, self._now_ms())
        if script.name not in self._shas:
            self.texts[script.name] = PROLOGUE + script.source
            self._shas[script.name] = text(self.ask("SCRIPT", "LOAD", self.texts[script.name]))
        self.sent = ("EVALSHA", self._shas[script.name], *rest)
        try:
            reply = text(self.ask(*self.sent))
        except ServerError as error:
            raise AssertionError(f"{script.name} {args}: {error}") from error
        self._on_reply(script.name, tuple(args), reply)
        return reply

    def ask(self, *words: str | int | bytes) -> Reply:
        """A command of the test's own."""
        return self._link.ask(*words, within_s=PATIENCE_S)

    async def read(self, stream: str, after: str) -> list[Entry]:
        """What stands in ``stream`` after an id; QuietError instead of waiting for more."""
        found = found_in(text(self.ask("XREAD", "COUNT", 100, "STREAMS", stream, after))).get(stream)
        if not found:
            raise QuietError
        return found

    async def server_ms(self) -> int:
        """The virtual clock."""
        return self._now_ms()

    def disconnect(self) -> None:
        """Close the link."""
        self._link.close()
