"""``orchestratectl events | logs | report``: what happened in a run, from its directory or from its server.

Each takes a run's directory (of one node, or of all nodes of a run; left out: the latest one in ``runs``), or REDIS_URL
and RUN_ID. Invariant: looking changes nothing, neither files nor a run.
"""
# ruff: noqa: PLC0415 - what is heavy is imported where it is needed

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.cli import rundir
from orchestrator.cli.rundir import LogFile, Record
from orchestrator.cli.saying import say, write
from orchestrator.errors import ConfigError, ExitCode, Problem

LOOK_EVERY_S = 0.2  # at files that grow
BLOCK = 1 << 16


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"orchestratectl {verb}", usage="%(prog)s [options] [RUN_DIR | REDIS_URL RUN_ID]", description=None
    )
    parser.add_argument("words", nargs="*", metavar="RUN_DIR | REDIS_URL RUN_ID", help="left out: the latest in runs/")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    return parser


def _remote(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[str, str] | None:
    """The URL and the run_id, if that is what was given."""
    if words and "://" in words[0]:
        if len(words) != 2:  # noqa: PLR2004 - a URL and a run_id
            parser.error("a server's URL needs a RUN_ID behind it, and nothing else")
        from orchestrator.cli.control import with_password

        return with_password(words[0]), words[1]
    if len(words) > 1:
        parser.error("give one directory")
    return None


def events(words: Sequence[str]) -> int:
    """Show the journal of a run, of all its nodes in order of time. --follow: until it ends."""
    parser = _parser("events")
    parser.add_argument("--follow", "-f", action="store_true", help="go on until the run has ended")
    given = parser.parse_intermixed_args(list(words))
    remote = _remote(parser, given.words)
    try:
        if remote is not None:
            import asyncio

            asyncio.run(_tell_remote(*remote, follow=given.follow, as_json=given.json))
        else:
            journals = rundir.Journals(rundir.node_dirs(given.words[0] if given.words else None))
            _tell(_followed(journals) if given.follow else journals.more(), as_json=given.json)
            if journals.unreadable:
                from orchestrator.cli.report import counted

                say(f"{counted(journals.unreadable, 'line')} could not be read")
    except KeyboardInterrupt:
        if not given.follow:
            raise
    return ExitCode.SUCCEEDED


async def _tell_remote(url: str, run_id: str, *, follow: bool, as_json: bool) -> None:
    from orchestrator.cli.past_remote import remote_events

    async for record in remote_events(url, run_id, follow=follow):
        _tell([record], as_json=as_json)


def _followed(journals: rundir.Journals) -> Iterator[Record]:
    while True:
        yield from journals.more()
        if journals.over:
            return
        time.sleep(LOOK_EVERY_S)


def _tell(records: Iterable[Record], *, as_json: bool) -> None:
    for record in records:
        write(f"{json.dumps(record) if as_json else _event_line(record)}\n")


def _event_line(record: Record) -> str:
    """``14:03:07.125  a  [1] worker_started rank=0 …``; the role is named where it has a name of its own."""
    from orchestrator.cli.report import brief, failure_of
    from orchestrator.cli.tale import raw

    at = record.get("ts")
    stamp = "--:--:--.---"
    if isinstance(at, int | float):
        stamp = f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 1000) % 1000:03}"
    group = record.get("group")
    who = [str(record["node"])] if record.get("node") else []
    who += [str(group)] if group not in (None, "", "default") else []
    shown = {key: brief(failure_of(value)) if key == "cause" and value else value for key, value in record.items()}
    return "  ".join((stamp, *who, raw({**shown, "round": record.get("round") or "-"})))


def report(words: Sequence[str]) -> int:
    """Show how a run ended, the root cause first; its exit code is in there, this command's own is 0."""
    from orchestrator.cli.report import report_lines

    parser = _parser("report")
    given = parser.parse_intermixed_args(list(words))
    remote = _remote(parser, given.words)
    found: dict[str, Record]
    if remote is not None:
        from orchestrator.cli.past_remote import remote_result

        found = {"": remote_result(*remote)}
    else:
        directories = rundir.node_dirs(given.words[0] if given.words else None)
        ended = {path.name: rundir.result(path) for path in directories}
        running = [name for name, one in ended.items() if one is None]
        if running:
            raise _runs_on(directories, running)
        found = {name: one for name, one in ended.items() if one is not None}
    if given.json:
        one = next(iter(found.values()))
        write(json.dumps(one if len(found) == 1 else found, indent=2) + "\n")
    for name, one in found.items() if not given.json else ():
        head = [f"node {name}:"] if len(found) > 1 else []
        write("\n".join([*head, *(line.text for line in report_lines(one)), ""]))
    return ExitCode.SUCCEEDED


def _runs_on(directories: Sequence[Path], running: Sequence[str]) -> ConfigError:
    where = directories[0] if len(directories) == 1 else directories[0].parent
    fact = f"has not ended on {', '.join(running)}, or its agent was killed before it could say so"
    return ConfigError([Problem(str(where), fact, f"see orchestratectl events --follow {where}")])


def logs(words: Sequence[str]) -> int:
    """Show what the workers of a run wrote: in its last round, or as --round, --rank, --stream and --tail say."""
    parser = _parser("logs")
    parser.add_argument("--round", type=int, help="instead of the last one; 0: of all rounds")
    parser.add_argument("--rank", type=int, action="append", help="of these ranks only; may be repeated")
    parser.add_argument("--stream", choices=("stdout", "stderr"), help="of this one only")
    parser.add_argument("--tail", type=int, metavar="N", help="the last N lines of each file")
    given = parser.parse_intermixed_args(list(words))
    if _remote(parser, given.words) is not None:
        parser.error("logs stay on the nodes where they were written: give a run's directory there")
    directories = rundir.node_dirs(given.words[0] if given.words else None)
    files = [(path, one) for path in directories for one in rundir.log_files(path) if _wanted(one, given)]
    if given.round is None:
        last: dict[str, int] = {}
        for _, one in files:
            last[one.group] = max(one.round, last.get(one.group, 0))
        files = [(path, one) for path, one in files if one.round == last[one.group]]
    if not files:
        remedy = "leave options out; with logs=inherit there are none, and logs.dir may have put them elsewhere"
        raise ConfigError([Problem(str(directories[0]), "holds no such logs", remedy)])
    if given.json:
        write(json.dumps([_log_dict(path, one) for path, one in files], indent=2) + "\n")
        return ExitCode.SUCCEEDED
    for path, one in files:
        _show(one, path.name if len(directories) > 1 else "", given.tail)
    return ExitCode.SUCCEEDED


def _wanted(one: LogFile, given: argparse.Namespace) -> bool:
    return (
        given.round in (None, 0, one.round)
        and (given.rank is None or one.rank in given.rank)
        and given.stream in (None, one.stream)
    )


def _log_dict(directory: Path, one: LogFile) -> dict[str, Any]:
    return {
        "node": directory.name,
        "group": one.group,
        "round": one.round,
        "rank": one.rank,
        "incarnation": one.incarnation,
        "stream": one.stream,
        "path": str(one.path),
        "bytes": one.path.stat().st_size,
    }


def _show(one: LogFile, node: str, tail: int | None) -> None:
    """One file, under a line that says whose it is; what a worker wrote passes through as it is."""
    out = sys.stdout.buffer
    if not one.path.stat().st_size:
        return
    again = f".{one.incarnation}" if one.incarnation else ""
    where = f"{node} " if node else ""
    write(f"==> {where}{one.group} round {one.round}, rank {one.rank}{again}, {one.stream}: {one.path}\n")
    with one.path.open("rb") as file:
        if tail is not None:
            file.seek(_start_of_tail(one.path, tail))
        last = b"\n"
        while block := file.read(BLOCK):
            out.write(block)
            last = block[-1:]
    out.write(b"" if last == b"\n" else b"\n")
    out.flush()


def _start_of_tail(path: Path, lines: int) -> int:
    """Where the last ``lines`` lines of a file begin; read from its end, for logs may be larger than memory."""
    with path.open("rb") as file:
        at = size = file.seek(0, 2)
        if lines <= 0:
            return size
        wanted = lines
        while at > 0:
            begin = max(0, at - BLOCK)
            file.seek(begin)
            block = file.read(at - begin)
            end = len(block) - (at == size and block.endswith(b"\n"))  # the last line's own end begins nothing
            while (end := block.rfind(b"\n", 0, end)) >= 0:
                wanted -= 1
                if wanted == 0:
                    return begin + end + 1
            at = begin
    return 0


VERBS: dict[str, Callable[[Sequence[str]], int]] = {"events": events, "logs": logs, "report": report}
