"""``orchestratectl status | stop | restart | drain | join``: what an operator does to a run, through its server.

Each takes REDIS_URL and RUN_ID. Invariant: no word of these commands becomes part of a command line; what `join`
executes is the job that the run has, checked like any recipe.
"""
# ruff: noqa: PLC0415 - what is heavy is imported where it is needed

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from orchestrator.cli.saying import say, write
from orchestrator.core.address import FORMS
from orchestrator.core.rendezvous import Closed
from orchestrator.core.status import Granted, RunStatus, WishKind, WishReply, status_dict
from orchestrator.errors import ExitCode

if TYPE_CHECKING:
    from orchestrator.edge.redis.connection import Connection
    from orchestrator.edge.redis.control import Published, RunControl

PATIENCE_S = 5.0  # for a server that does not answer
WATCH_PATIENCE_S = 600.0  # for one that goes away while we watch: its agents wait as long
WATCH_EVERY_S = 1.0
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_CLEAR = "\x1b[H\x1b[J"  # to the top left, and nothing below


@dataclass(frozen=True, slots=True)
class Target:
    """Which run, and how to answer."""

    url: str
    run_id: str
    rest: tuple[str, ...]
    json: bool
    watch: bool


def _target(verb: str, words: Sequence[str]) -> Target:
    own = {"drain": "NODE REDIS_URL RUN_ID", "join": "REDIS_URL RUN_ID [KEY=VALUE …]"}.get(verb, "REDIS_URL RUN_ID")
    watch = "[--watch] " if verb == "status" else ""
    parser = argparse.ArgumentParser(prog=f"orchestratectl {verb}", usage=f"%(prog)s [--json] {watch}{own}")
    parser.add_argument("--json", action="store_true")
    if verb == "status":
        parser.add_argument("--watch", action="store_true")
    parser.add_argument("words", nargs="*")
    given = parser.parse_intermixed_args(list(words))
    found = list(given.words)
    at = next((at for at, word in enumerate(found) if "://" in word and "=" not in word.partition("://")[0]), None)
    if at is None or at + 1 >= len(found):
        parser.error(f"give {own}; a server's URL is {FORMS}")
    rest = (*found[:at], *found[at + 2 :])
    if verb == "drain" and len(rest) != 1:
        parser.error(f"give {own}: one node")
    if verb not in ("drain", "join") and rest:
        parser.error(f"give {own}, and nothing else")
    return Target(with_password(found[at]), found[at + 1], rest, given.json, getattr(given, "watch", False))


def with_password(url: str) -> str:
    """``url`` with the password of REDIS_PASSWORD if it has none: others on a host can read a command line."""
    scheme, _, rest = url.partition("://")
    password = os.environ.get("REDIS_PASSWORD")
    if not password or not scheme.startswith("redis") or "@" in rest.partition("/")[0]:
        return url
    return f"{scheme}://:{quote(password, safe='')}@{rest}"


@asynccontextmanager
async def _run(target: Target) -> AsyncIterator[RunControl]:
    async with connected(target.url, target.run_id, WATCH_PATIENCE_S if target.watch else PATIENCE_S) as (_, run):
        yield run


@asynccontextmanager
async def connected(url: str, run_id: str, grace_s: float) -> AsyncIterator[tuple[Connection, RunControl]]:
    """A way to a run through its server, for an operator; RendezvousError if that does not answer."""
    from orchestrator.edge.redis.connection import Connection
    from orchestrator.edge.redis.control import RunControl

    connection = Connection.from_url(
        url,
        grace_s=grace_s,
        on_lost=lambda reason: say(f"the server is away: {reason}"),
        on_back=lambda: say("the server is back"),
    )
    try:
        await connection.open(PATIENCE_S, "")
        yield connection, RunControl(connection, run_id)
    finally:
        await connection.close()


def status(words: Sequence[str]) -> int:
    """Show a run: who takes part, its round, its restarts, how it ended. --watch: until it ends."""
    target = _target("status", words)
    try:
        asyncio.run(_watch(target) if target.watch else _once(target))
    except KeyboardInterrupt:
        if not target.watch:
            raise
        return INTERRUPTED  # how a watch is ended
    return ExitCode.SUCCEEDED


async def _once(target: Target) -> None:
    from orchestrator.cli.control_text import status_text

    async with _run(target) as run:
        found = await run.status()
    write(json.dumps(status_dict(found), indent=2) + "\n" if target.json else status_text(found))


async def _watch(target: Target) -> None:
    """Redraw on a terminal; elsewhere, and as JSON, one answer whenever something has changed."""
    from orchestrator.cli.control_text import status_text
    from orchestrator.edge.console import escape

    drawn, before = sys.stdout.isatty() and not target.json, ""
    async with _run(target) as run:
        while True:
            found = await run.status()
            now = json.dumps(_lasting(found)) if target.json else status_text(found, leases=False)
            if drawn:
                sys.stdout.write(f"{_CLEAR}{escape(status_text(found))}")
                sys.stdout.flush()
            elif now != before:
                write(json.dumps(status_dict(found)) + "\n" if target.json else now)
            if found.closed is not None:
                return
            before = now
            await asyncio.sleep(WATCH_EVERY_S)


def _lasting(found: RunStatus) -> object:
    """What is the same from one look to the next, unless something has happened."""
    shown = status_dict(found)
    for group in shown["groups"]:
        for member in (*group["members"], *group["waiting"]):
            del member["lease_s"]
        (group["last_end"] or {}).pop("delay_s", None)
    return shown


def stop(words: Sequence[str]) -> int:
    """End a run: all its agents stop their workers and end with exit code 143."""
    return _wish(WishKind.STOP, words)


def restart(words: Sequence[str]) -> int:
    """Begin a new round, uncharged: all workers are stopped and started again."""
    return _wish(WishKind.RESTART, words)


def drain(words: Sequence[str]) -> int:
    """Have one node leave: its agent stops its workers and ends with exit code 0; the others go on."""
    return _wish(WishKind.DRAIN, words)


def _wish(kind: WishKind, words: Sequence[str]) -> int:
    from orchestrator.cli.control_text import wish_dict, wish_text

    target = _target(kind.value, words)
    node = target.rest[0] if target.rest else ""

    async def ask() -> dict[str, WishReply]:
        async with _run(target) as run:
            return await run.wish(kind, node)

    said = asyncio.run(ask())
    good = [isinstance(one, Granted) or (kind is WishKind.STOP and isinstance(one, Closed)) for one in said.values()]
    if target.json:
        groups = {role: wish_dict(one) for role, one in said.items()}
        write(json.dumps({"run_id": target.run_id, "wish": kind.value, "groups": groups}, indent=2) + "\n")
    else:
        write("".join(f"{wish_text(kind, node, role, one)}\n" for role, one in said.items()))
    return ExitCode.SUCCEEDED if any(good) else ExitCode.RENDEZVOUS


def join(words: Sequence[str]) -> int:
    """Take part in a run with the job that it has; KEY=VALUE sets what a node decides for itself."""
    from orchestrator.cli import argv
    from orchestrator.cli.main import begin, prepare
    from orchestrator.cli.publication import as_recipe

    target = _target("join", words)
    own = list(target.rest)
    if target.json and not any(word.startswith(("logs=", "logs.kind=")) for word in own):
        own.append("logs=files")  # the answer shall be all that there is on stdout
    published = asyncio.run(_published(target))
    with as_recipe(published.publication(), target.run_id, target.url, own) as given:
        composed, job = prepare(argv.parse(given))
    code = begin(composed, job)
    if target.json:
        write(Path(job.spec.run_dir, "result.json").read_text(encoding="utf-8"))
    return code


async def _published(target: Target) -> Published:
    async with _run(target) as run:
        return await run.published()


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "status": status,
    "stop": stop,
    "restart": restart,
    "drain": drain,
    "join": join,
}
