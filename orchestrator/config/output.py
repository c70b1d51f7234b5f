"""``logs.streams`` and ``logs.filters``: what of each worker's two streams is shown, and which lines are copied.

Readers of single values. Invariant: a rank that is not named is treated as ``all`` says, and as ``tee`` without that.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.config.report import INVALID, UNRESOLVED, Report, join, listed, nearest, show
from orchestrator.config.shape import Shape, any_of, shaped, written
from orchestrator.core.specs import Show

STREAMS = ("stdout", "stderr")


_SHOWN = written({"enum": [*map(str, Show)]})
_STREAMS: Shape = {"type": "object", "additionalProperties": False}


@shaped(
    {
        "type": "object",
        "propertyNames": {"pattern": "^(all|[0-9]+)$"},
        "additionalProperties": any_of(_SHOWN, {**_STREAMS, "properties": dict.fromkeys(STREAMS, _SHOWN)}),
    }
)
def streams(value: object, path: str, report: Report) -> object:
    """``{all: bare, 0: {stdout: tee, stderr: file}}``, as a pair for each rank; None stands for all others."""
    if not isinstance(value, Mapping):
        return report.problem(path, f"{show(value)} is not a mapping", "write {all: bare}, or {} for tee")
    found: dict[int | None, object] = {}
    for name, item in value.items():
        at = join(path, str(name))
        if name != "all" and not str(name).isdecimal():
            report.problem(at, f"{show(name)} is no local rank", "allowed: all, or a number from 0")
        elif item is not UNRESOLVED:
            found[None if name == "all" else int(name)] = _both(item, at, report)
    return {rank: shown for rank, shown in found.items() if shown is not INVALID}


def _both(value: object, path: str, report: Report) -> object:
    if not isinstance(value, Mapping):
        shown = _show(value, path, report)
        return INVALID if shown is INVALID else (shown, shown)
    _known(value, path, report)
    pair = tuple(_show(value.get(name, Show.TEE), join(path, name), report) for name in STREAMS)
    return INVALID if INVALID in pair else pair


def _show(value: object, path: str, report: Report) -> object:
    if isinstance(value, str) and value in tuple(Show):
        return Show(value)
    return report.problem(path, f"{show(value)} is not allowed", f"{nearest(value, Show)}allowed: {listed(Show)}")


_WORDS = any_of({"type": "string"}, {"type": "array", "items": {"type": "string"}})


@shaped({**_STREAMS, "properties": dict.fromkeys(STREAMS, _WORDS)})
def line_filters(value: object, path: str, report: Report) -> object:
    """``{stdout: [words], stderr: [words]}``."""
    if not isinstance(value, Mapping):
        return report.problem(path, f"{show(value)} is not a mapping", "write {stdout: [word]}, or {} for none")
    _known(value, path, report)
    found = {}
    for name in STREAMS:
        if name not in value:
            continue
        words = value[name]
        words = words if isinstance(words, list) else [words]
        if all(isinstance(word, str) and word for word in words):
            found[name] = tuple(words)
        else:
            report.problem(join(path, name), f"{show(value[name])} is not a list of words", "write [word, word]")
    return found


def _known(value: Mapping[object, object], path: str, report: Report) -> None:
    for name in value:
        if name not in STREAMS:
            report.problem(join(path, str(name)), "unknown key", f"{nearest(name, STREAMS)}known: {listed(STREAMS)}")
