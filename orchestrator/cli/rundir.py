"""A run's directory, read back: the journals of its nodes, how they ended, and what their workers wrote.

Knows files and no terminal. Invariant: a file may be torn, still growing, or strange; what cannot be read is left out,
and nothing that a file holds is executed or followed.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.words import FINAL
from orchestrator.errors import ConfigError, Problem

JOURNAL, RESULT, LOGS = "events.jsonl", "result.json", "logs"
DEFAULT = "runs"  # where `hydra.run.dir` puts them
Record = dict[str, Any]
_ENDS = {state.value for state in FINAL}


@dataclass(frozen=True, slots=True, order=True)
class LogFile:
    """What one incarnation of a worker wrote to one stream."""

    group: str
    round: int
    rank: int
    incarnation: int
    stream: str
    path: Path


def node_dirs(word: str | None) -> list[Path]:
    """The directories of a run's nodes: those in ``word``, or it alone; without a word, the latest run's in ``runs``.

    ConfigError where there is none.
    """
    if word is None:
        journals = sorted(Path(DEFAULT).glob(f"*/*/{JOURNAL}"), key=lambda path: path.stat().st_mtime)
        if not journals:
            raise _no_run(DEFAULT, "there is no run here", "give a run's directory, or a server's URL and a run_id")
        return _of_run(journals[-1].parent.parent)
    path = Path(word)
    if _is_node(path):
        return [path]
    if not path.is_dir():
        raise _no_run(word, "is no directory", "give that of a run, as in runs/RUN_ID/NODE or runs/RUN_ID")
    found = _of_run(path)
    if not found:
        raise _no_run(word, f"holds no {JOURNAL}", "give a run's directory, as in runs/RUN_ID/NODE or runs/RUN_ID")
    return found


def _of_run(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if _is_node(child))


def _is_node(path: Path) -> bool:
    return (path / JOURNAL).is_file() or (path / RESULT).is_file()


def _no_run(where: str, fact: str, remedy: str) -> ConfigError:
    return ConfigError([Problem(where, fact, remedy)])


class Journals:
    """The records of several nodes in the order of their clocks; more of them with every look."""

    def __init__(self, directories: list[Path]) -> None:
        self._paths = [directory / JOURNAL for directory in directories]
        self._read = dict.fromkeys(self._paths, 0)  # bytes, whole lines only
        self._states: dict[tuple[object, object], str] = {}
        self.unreadable = 0  # lines

    def more(self) -> Iterator[Record]:
        """What has been written since the last look."""
        return heapq.merge(*map(self._new, self._paths), key=_instant)

    @property
    def over(self) -> bool:
        """Whether every group that was told of has ended on every node."""
        return bool(self._states) and all(state in _ENDS for state in self._states.values())

    def _new(self, path: Path) -> list[Record]:
        try:
            with path.open("rb") as file:
                file.seek(self._read[path])
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path] += len(whole)
        return [record for line in whole.splitlines() if (record := self._parsed(line)) is not None]

    def _parsed(self, line: bytes) -> Record | None:
        record = _object(line)
        if record is None:
            self.unreadable += bool(line.strip())
        elif record.get("event") == "transition":
            self._states[record.get("node"), record.get("group")] = str(record.get("to"))
        return record


def _instant(record: Record) -> float:
    at = record.get("ts")
    return float(at) if isinstance(at, int | float) else 0.0


def _object(text: bytes | str) -> Record | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def result(directory: Path) -> Record | None:
    """How the node's part of the run ended; None while it has not."""
    try:
        return _object((directory / RESULT).read_bytes())
    except OSError:
        return None


def log_files(directory: Path) -> list[LogFile]:
    """All that workers of a node wrote, by group, round and rank."""
    found = []
    for path in (directory / LOGS).glob("*/*/*/*.log"):
        group, round_, worker = path.parts[-4:-1]
        rank, _, incarnation = worker.partition(".")
        if round_.isdecimal() and rank.isdecimal() and (incarnation or "0").isdecimal() and path.is_file():
            found.append(LogFile(group, int(round_), int(rank), int(incarnation or 0), path.stem, path))
    return sorted(found)
