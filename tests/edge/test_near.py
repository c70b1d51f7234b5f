"""The connection through a unix socket: any pieces, any end, and no client library."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest

from orchestrator.edge.redis.near import NearLink
from orchestrator.edge.redis.resp import LINE_LIMIT, NotRedisError, Reply, ServerError
from tests.edge import servers
from tests.edge.servers import Server

server = servers.server


async def said_by(path: Path, pieces: list[bytes]) -> Reply:
    """What a peer's answer, in these pieces, is taken for."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    async with await asyncio.start_unix_server(answer, path):
        link = await NearLink.reach(str(path))
        try:
            return await link.ask("PING")
        finally:
            link.drop()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Of a socket, which a server of asyncio leaves where it was."""
    yield tmp_path / "s"
    (tmp_path / "s").unlink()


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (b"+PONG\r\n", b"PONG"),
        (b":-12\r\n", -12),
        (b"$-1\r\n", None),
        (b"$4\r\na\r\nb\r\n", b"a\r\nb"),
        (b"*2\r\n$1\r\na\r\n*1\r\n:7\r\n", [b"a", [7]]),
        (b"$%d\r\n%s\r\n" % (3 * LINE_LIMIT, b"x" * 3 * LINE_LIMIT), b"x" * 3 * LINE_LIMIT),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20], ids=["bytes", "sevens", "whole"])
def test_replies_may_come_in_any_pieces(path: Path, answer: bytes, reply: Reply, size: int) -> None:
    if size == 1 and len(answer) > LINE_LIMIT:
        size = 4093
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    assert asyncio.run(said_by(path, pieces)) == reply


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (b"-READONLY You can't\r\n", ServerError, "READONLY You can't"),
        (b"", EOFError, "hung up"),
        (b"$10\r\nabc", EOFError, "hung up"),
        (b"*2\r\n:1\r\n", EOFError, "hung up"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", NotRedisError, "HTTP/1.1 400"),
        (b"x" * 2 * LINE_LIMIT, NotRedisError, "does not speak the Redis protocol: b'xxx"),
    ],
)
def test_what_is_no_reply_is_an_error_that_says_so(
    path: Path, answer: bytes, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        asyncio.run(said_by(path, [answer]))


def test_a_dropped_connection_ends_a_command_that_waits(server: Server) -> None:
    async def drop_while_waiting() -> None:
        link = await NearLink.reach(server.path)
        waiting: Awaitable[Reply] = asyncio.ensure_future(link.ask("BLPOP", "nothing", "0"))
        await asyncio.sleep(0)
        link.drop()
        await waiting

    with pytest.raises((EOFError, OSError)):
        asyncio.run(drop_while_waiting())


def test_a_job_with_its_own_server_imports_no_client_library(tmp_path: Path) -> None:
    code = (
        "import sys; from orchestrator.cli.main import main; sys.argv[1:] = ['logs=files', '--', 'true']; main(); "
        "print(sorted(name for name in sys.modules if name.partition('.')[0] == 'redis'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
