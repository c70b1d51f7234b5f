"""The one pass from plain data to a dataclass: every key is judged, every value is read, nothing raises.

A dataclass field says how its value is read (`key`), or which dataclass it holds (`section`), or which dataclasses it
may hold, by their ``kind`` (`choice`). Invariant: what comes out is complete; a value that could not be read has its
default, and its problem in the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar, cast

from orchestrator.config.readers import Reader
from orchestrator.config.report import INVALID, UNRESOLVED, Report, join, listed, nearest, show

T = TypeVar("T")
Choices = Mapping[str, type[Any]]


def key(read: Reader, default: T) -> T:
    """A field whose value ``read`` understands. To a type checker it is its default, as with `dataclasses.field`."""
    if default == {}:
        return cast("T", field(default_factory=dict, metadata={"read": read}))
    return field(default=default, metadata={"read": read})


def section(cls: type[T]) -> T:
    """A field that holds a mapping with the keys of ``cls``."""
    return field(
        default_factory=cls,
        metadata={"read": lambda value, path, report: convert(cls, value, path, report), "section": cls},
    )


def choice(choices: Mapping[str, type[T]], default: str) -> T:
    """A field that holds one of several dataclasses, named by ``kind``; a bare word equals ``{kind: word}``."""
    return field(
        default_factory=choices[default],
        metadata={
            "read": lambda value, path, report: _chosen(choices, default, value, path, report),
            "choices": choices,
        },
    )


def key_names(cls: type[Any]) -> list[str]:
    """The keys of a dataclass as YAML knows them; ``kind`` is said by choosing."""
    return [one.name for one in fields(cls) if one.name != "kind"]


def convert(cls: type[T], data: object, path: str, report: Report) -> T:
    """``data`` as a ``cls``. Keys that it does not have are problems."""
    known = key_names(cls)
    if not isinstance(data, Mapping):
        report.hole(path, f"{show(data)} is not a mapping", f"known: {listed(known)}")
        return cls()
    for name in data:
        if name not in known and name != "kind":
            _unknown(join(path, str(name)), name, known, report)
    return _filled(cls, data, path, report)


def _filled(cls: type[T], data: Mapping[str, Any], path: str, report: Report) -> T:
    found = {}
    for one in fields(cls):  # type: ignore[arg-type]  # T is a dataclass here
        if one.name in data and one.name != "kind" and data[one.name] is not UNRESOLVED:
            found[one.name] = _read(one, data[one.name], join(path, one.name), report)
    return cls(**{name: value for name, value in found.items() if value is not INVALID})


def _read(one: Field[Any], value: object, path: str, report: Report) -> object:
    if value is None and one.default is MISSING:
        return report.problem(path, "null is not a mapping", "leave it out, or write {} to change nothing")
    return one.metadata["read"](value, path, report)


def _unknown(path: str, name: object, known: list[str], report: Report) -> None:
    report.problem(path, "unknown key", f"{nearest(name, known)}known: {listed(known)}")


def _chosen(choices: Choices, default: str, value: object, path: str, report: Report) -> object:
    data = {"kind": value} if isinstance(value, str) else value
    if not isinstance(data, Mapping):
        return report.hole(path, f"{show(value)} is not a choice", f"allowed: {listed(choices)}")
    kind = data.get("kind", default)
    if kind is UNRESOLVED:
        return INVALID
    sound = isinstance(kind, str) and kind in choices
    if not sound:
        report.problem(path, f"{show(kind)} is not a choice", f"{nearest(kind, choices)}allowed: {listed(choices)}")
    cls = choices[kind] if sound else _widest(choices)
    for name in data:
        if name not in key_names(cls) and name != "kind":
            _foreign(choices, kind, name, path, report)
    return _filled(cls, data, path, report)


def _widest(choices: Choices) -> type[Any]:
    """The choice with most keys: it stands in for an unknown one, so that the rest is judged too."""
    return max(choices.values(), key=lambda cls: len(key_names(cls)))


def _foreign(choices: Choices, kind: object, name: object, path: str, report: Report) -> None:
    owners = [f"{path}={other}" for other, cls in choices.items() if name in key_names(cls)]
    if not owners:
        cls = choices.get(kind) if isinstance(kind, str) else None
        known = key_names(cls) if cls is not None else []
        everything = sorted({word for other in choices.values() for word in key_names(other)})
        _unknown(join(path, str(name)), name, known or everything, report)
    elif kind in choices:
        report.note(join(path, str(name)), f"is ignored with {path}={kind}", f"it belongs to {' and '.join(owners)}")
