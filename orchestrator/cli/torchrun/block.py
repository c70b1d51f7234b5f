"""The report of a failed run in torchrun's own form, line by line, for whoever reads it by machine.

In goes the object of result.json. Invariant: what a program looks for in torchrun's block stands in the same place.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.cli.report import Line, failure_of, report_lines
from orchestrator.core.failures import Failure, signal_name

_HEAD = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: "
_WIDEST = 60
_NO_TRACEBACK = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"


def block_lines(result: Mapping[str, Any], name: str) -> list[Line]:
    """The end of a run that workers have failed, as torchrun tells it; any other end as we do."""
    cause = result.get("root_cause")
    if result.get("state") != "FAILED" or not isinstance(cause, Mapping):
        return report_lines(result)
    root = failure_of(cause)
    return [Line(text, "bad", logging.WARNING) for text in _block(root, _all(root, result), f"{name} FAILED")]


def _all(root: Failure, result: Mapping[str, Any]) -> list[Failure]:
    """The failures of the round that ended the run, by rank: the last of each counts, and the first is the cause."""
    found = [failure_of(one) for one in result.get("failures") or () if isinstance(one, Mapping)]
    by_rank = {one.rank: one for one in found if one.round == root.round} | {root.rank: root}
    return sorted(by_rank.values(), key=lambda one: one.at)


def _block(root: Failure, failures: list[Failure], title: str) -> Iterator[str]:
    told = {one.rank: list(_failure(at, one)) for at, one in enumerate(failures)}
    width = min(_WIDEST, max(len(line) for line in [title, *(line for lines in told.values() for line in lines)]))
    others = [line for rank, lines in told.items() if rank != root.rank for line in lines]
    yield from (_HEAD, "=" * width, title, "-" * width, "Failures:")
    yield from others or ["  <NO_OTHER_FAILURES>"]
    yield from ("-" * width, "Root Cause (first observed failure):", *told[root.rank], "=" * width)


def _failure(at: int, one: Failure) -> Iterator[str]:
    code = one.exit_code if one.signal is None else -one.signal
    name = "" if one.signal is None else f" ({signal_name(one.signal)})"
    yield f"[{at}]:"
    yield f"  time      : {datetime.fromtimestamp(int(one.at)).isoformat(sep='_')}"  # noqa: DTZ006 - torchrun's is local
    yield f"  host      : {socket.getfqdn()}"
    yield f"  rank      : {one.rank} (local_rank: {one.local_rank})"
    yield f"  exitcode  : {code} (pid: {one.pid}) {name}"
    yield f"  error_file: {_error_file(one)}"
    yield from f"  traceback : {_said(one)}".replace("\n", "\n  ").split("\n")


def _error_file(one: Failure) -> str:
    path = Path(one.log).with_name("error.json") if one.log else None
    return str(path) if path is not None and path.is_file() else "<N/A>"


def _said(one: Failure) -> str:
    if one.traceback:
        return one.traceback
    if one.signal is not None:
        return f"Signal {one.signal} ({signal_name(one.signal)}) received by PID {one.pid}"
    if _error_file(one) == "<N/A>":
        return _NO_TRACEBACK
    return ": ".join(part for part in (one.error_type, one.message) if part)
