"""A blocking connection to the server for processes that shall not import a client or an event loop: workers.

Standard library only. Finds its way by `route`'s steps, and knows nothing of rounds. Invariant: a link on which
anything went wrong is closed, for its next reply might be an older one's.
"""

from __future__ import annotations

import socket
from collections.abc import Generator
from typing import BinaryIO

from orchestrator.core.address import Address, Command, Place, Word
from orchestrator.edge.redis.resp import LINE_LIMIT, Reply, ServerError, encode, replying
from orchestrator.edge.redis.route import Answer, Question, Route


class Link:
    """One connection, connected, authenticated, and used by one thread at a time."""

    def __init__(self, address: Address, place: Place, greeting: tuple[Command, ...], within_s: float) -> None:
        self._socket = _connect(address, place, within_s)
        self._replies: BinaryIO = self._socket.makefile("rb")
        try:
            for command in greeting:
                self.ask(*command, within_s=within_s)
        except BaseException:
            self.close()
            raise

    @classmethod
    def to_server(cls, route: Route, within_s: float) -> Link:
        """A connection to the server, wherever it is; each of those who are asked for it has ``within_s`` too."""
        steps: Generator[Question, Answer, Place] = route.find()
        try:
            question = next(steps)
            while True:
                question = steps.send(_answer(route.address, question, within_s / len(route.address.seeds)))
        except StopIteration as found:
            place: Place = found.value
        link = cls(route.address, place, route.address.greeting(), within_s)
        route.reached(place)
        return link

    def ask(self, *words: Word, within_s: float) -> Reply:
        """Send a command and return its reply. OSError or EOFError: the link is of no more use."""
        self._socket.settimeout(within_s)
        self._socket.sendall(encode(*words))
        steps = replying()
        need = next(steps)
        while True:
            piece = self._replies.read(need) if need else self._replies.readline(LINE_LIMIT)
            if len(piece) < need or not piece:
                raise EOFError("the server hung up")
            try:
                need = steps.send(piece)
            except StopIteration as done:
                reply: Reply = done.value
                if isinstance(reply, ServerError):
                    raise reply from None
                return reply

    def close(self) -> None:
        """Disconnect."""
        self._replies.close()
        self._socket.close()


def _answer(address: Address, question: Question, within_s: float) -> Answer:
    try:
        link = Link(address, question.place, question.greeting, within_s)
        try:
            return link.ask(*question.command, within_s=within_s)
        finally:
            link.close()
    except (OSError, EOFError, ServerError, ValueError) as error:
        return error


def _connect(address: Address, place: Place, within_s: float) -> socket.socket:
    if place.path:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(within_s)
        try:
            link.connect(place.path)
        except BaseException:
            link.close()
            raise
        return link
    link = socket.create_connection((place.host, place.port), within_s)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if address.tls is None:
        return link
    try:
        from orchestrator.edge.redis import tls  # noqa: PLC0415 - 4 MB that only rediss:// needs

        return tls.context(address.tls).wrap_socket(link, server_hostname=place.host)
    except BaseException:
        link.close()
        raise
