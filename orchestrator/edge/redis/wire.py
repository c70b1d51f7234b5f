"""A connection to the server that takes one command at a time, and is made anew after anything that went wrong.

Sends, reads and keeps time; how often something is tried is not its business. Invariant: a reply is only ever taken for
that of the command that was just sent, because a link that failed or was too slow is dropped with all it holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TYPE_CHECKING

from orchestrator.core.address import Address, Command, Place, Word
from orchestrator.core.lease import Contact
from orchestrator.edge.redis.faults import Stage, contact
from orchestrator.edge.redis.near import NearLink
from orchestrator.edge.redis.resp import Reply, ServerError
from orchestrator.edge.redis.route import Answer, NotMasterError, Question, Route

if TYPE_CHECKING:
    from orchestrator.edge.redis.client import AsyncLink

REDIRECTIONS = 4  # that one command follows in a row
POLL_S = 1.0  # how long those who watch over the server may take to say that they are there
PROBLEMS = (OSError, EOFError, ServerError, ValueError)


class Trouble(Exception):
    """An attempt failed: why, what that shows, and whether a longer wait might have helped."""

    def __init__(self, error: Exception, shows: Contact, *, too_slow: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.shows = shows
        self.too_slow = too_slow  # a connection of this very attempt was silent for all its time


class Wire:
    """A way to the server that `route` finds. It connects when it is used."""

    def __init__(self, route: Route, extra_timeout_s: float = 0.0) -> None:
        self._address = route.address
        self._route = route
        self._timeout_s = route.address.timeout_s
        self._extra_timeout_s = extra_timeout_s
        self._link: AsyncLink | NearLink | None = None
        self._stage = Stage.CONNECTING
        self._knocked: Place | None = None  # where we connected last, or tried to
        self._turn = asyncio.Lock()
        self._patience: asyncio.Timeout | None = None  # with the attempt under way
        self._given_up = False  # that attempt, by others
        self.local_addr = "127.0.0.1"  # on the last connection

    async def ask(self, *words: Word, within_s: float | None = None) -> object:
        """The reply to a command, see `first_known`."""
        return await self.first_known(words, within_s=within_s)

    async def first_known(self, *commands: Command, within_s: float | None = None) -> object:
        """The reply to the first of ``commands`` that the server knows, as text; `Trouble` if there is none in time.

        The time counts for all that is needed, a connection included.
        """
        limit_s = (self._timeout_s if within_s is None else within_s) + self._extra_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self._turn.acquire()
        except TimeoutError:
            self._give_up()  # whoever has the turn has had no answer for as long
            raise Trouble(_silence(limit_s), Contact.SILENT, too_slow=False) from None
        try:
            return await self._attempt(commands, limit_s)
        finally:
            self._turn.release()

    def drop(self) -> None:
        """Disconnect. A reply that is under way is lost."""
        link, self._link = self._link, None
        if link is not None:
            link.drop()

    async def _attempt(self, commands: tuple[Command, ...], limit_s: float) -> object:
        self._given_up = False
        self._stage = Stage.CONNECTING if self._link is None else Stage.OPEN
        try:
            async with asyncio.timeout(limit_s) as self._patience:
                return _text(await self._converse(commands, limit_s))
        except PROBLEMS as error:
            self._patience = None
            if self._stage is Stage.FRESH or not isinstance(error, ServerError) or Route.misled(error):
                self.drop()
            raise await self._trouble(error, limit_s) from error
        except BaseException:
            self.drop()
            raise
        finally:
            self._patience = None

    def _give_up(self) -> None:
        """End the attempt that is under way."""
        if self._patience is not None and not self._patience.expired():
            self._given_up = True
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def _trouble(self, error: Exception, limit_s: float) -> Trouble:
        """What the end of an attempt shows."""
        late = isinstance(error, TimeoutError) and error.errno is None
        error = _silence(limit_s) if late else self._route.explained(error)
        if self._given_up:
            return Trouble(error, Contact.SILENT, too_slow=False)
        shows = contact(error, self._stage)
        if late and self._stage is Stage.CONNECTING and await self._accepts():
            shows = Contact.AWAY
        shows = await self._weigh(shows, limit_s)
        return Trouble(error, shows, too_slow=late and self._stage is Stage.FRESH)

    async def _accepts(self) -> bool:
        """Whether a server that was silent while we connected was so after that, in the handshake of TLS."""
        place = self._knocked
        if place is None or self._address.tls is None:
            return False
        try:
            async with asyncio.timeout(POLL_S):
                _, writer = await asyncio.open_connection(place.host, place.port)
        except OSError:  # TimeoutError is one
            return False
        writer.transport.abort()
        return True

    async def _converse(self, commands: tuple[Command, ...], limit_s: float) -> Reply:
        for _ in range(REDIRECTIONS):
            link = self._link or await self._connect(limit_s)
            try:
                return await _first_known(link, commands)
            except ServerError as error:
                if not self._route.redirects(error):
                    raise
            self.drop()
        raise NotMasterError("the nodes of the cluster send us in circles")

    async def _connect(self, limit_s: float) -> AsyncLink | NearLink:
        self._stage = Stage.CONNECTING
        place = await self._find(limit_s)
        self._knocked = place
        link = self._link = await _reach(place, self._address)
        self._stage = Stage.FRESH
        await link.greet(self._address.greeting())
        self.local_addr = link.local_addr()
        self._route.reached(place)
        return link

    # -- finding the server

    async def _find(self, within_s: float) -> Place:
        steps: Generator[Question, Answer, Place] = self._route.find()
        limit_s = within_s / (len(self._address.seeds) + 2)
        try:
            question = next(steps)
            while True:
                question = steps.send(await self._answer(question, limit_s))
        except StopIteration as found:
            place: Place = found.value
            return place

    async def _answer(self, question: Question, within_s: float) -> Answer:
        """What one of those who know, or may be, the server says over a connection of its own."""
        link = None
        try:
            async with asyncio.timeout(within_s):
                link = await _reach(question.place, self._address)
                await link.greet(question.greeting)
                return await link.ask(*question.command)
        except PROBLEMS as error:
            stage = Stage.CONNECTING if link is None else Stage.FRESH
            return error if contact(error, stage) is not Contact.SILENT else TimeoutError(str(error) or "no answer")
        finally:
            if link is not None:
                link.drop()

    async def _weigh(self, shows: Contact, within_s: float) -> Contact:
        """Where others watch over the server, it is away only if most of them are in sight, or gone themselves."""
        questions = self._route.watchers()
        if shows is Contact.ANSWERED or not questions:
            return shows
        asked = [asyncio.create_task(self._answer(one, min(within_s, POLL_S))) for one in questions]
        seen = 0
        try:
            for answer in asyncio.as_completed(asked):
                seen += not isinstance(await answer, TimeoutError)
                if 2 * seen > len(questions):
                    return Contact.AWAY
        finally:
            for task in asked:
                task.cancel()
        return Contact.SILENT


async def _reach(place: Place, address: Address) -> AsyncLink | NearLink:
    """A connection to ``place``. OSError, EOFError or ValueError if there is none."""
    if place.path:
        return await NearLink.reach(place.path)
    from orchestrator.edge.redis.client import AsyncLink  # noqa: PLC0415 - 45 ms that a local server does not need

    return await AsyncLink.reach(place, address)


async def _first_known(link: AsyncLink | NearLink, commands: tuple[Command, ...]) -> Reply:
    for command in commands[:-1]:
        try:
            return await link.ask(*command)
        except ServerError as error:
            if "NOSCRIPT" not in str(error):
                raise
    return await link.ask(*commands[-1])


def _silence(within_s: float) -> TimeoutError:
    return TimeoutError(f"Timeout: no reply within {within_s:g} s")


def _text(reply: Reply) -> object:
    if isinstance(reply, bytes):
        return reply.decode(errors="replace")
    return [_text(item) for item in reply] if isinstance(reply, list) else reply
