"""``recipe.needs``: what has to be there before a recipe can run, one short text for each.

A Python distribution or module (``torch``, ``torch>=2.6``), ``file:PATH`` or a text with a slash in it, ``env:NAME``,
``cmd:PROGRAM``. Only the grammar lives here; whether a need is met is looked up in cli/. Invariant: a text that is
accepted means exactly one thing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.config.report import Report, show
from orchestrator.config.shape import shaped

_VERSION = r"\s*(?:===?|[<>!~]=|[<>])\s*[\w.*+!-]+\s*"
_PYTHON = re.compile(rf"([A-Za-z_](?:[\w.-]*\w)?)({_VERSION}(?:,{_VERSION})*)?", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PROGRAM = re.compile(r"[^\s=\0]+")
_ALLOWED = "allowed: what pip installs, such as torch or torch>=2.6, file:PATH, env:NAME, cmd:PROGRAM"


class NeedKind(StrEnum):
    """What is needed."""

    PYTHON = "python"
    FILE = "file"
    ENV = "env"
    CMD = "cmd"


@dataclass(frozen=True, slots=True)
class RecipeNeed:
    """One need. ``versions`` is a specifier of Python's packaging, such as ``>=2.6``, or empty."""

    kind: NeedKind
    name: str
    versions: str = ""


def parse_need(text: str) -> RecipeNeed | None:
    """What ``text`` asks for; None if it is no need."""
    kind, colon, name = text.partition(":")
    if "\0" in text or "${" in text:
        return None
    if colon and kind == NeedKind.ENV:
        return RecipeNeed(NeedKind.ENV, name) if _VARIABLE.fullmatch(name) else None
    if colon and kind == NeedKind.CMD:
        return RecipeNeed(NeedKind.CMD, name) if _PROGRAM.fullmatch(name) else None
    if colon and kind == NeedKind.FILE:
        return RecipeNeed(NeedKind.FILE, name) if name else None
    if "/" in text:
        return RecipeNeed(NeedKind.FILE, text)
    found = _PYTHON.fullmatch(text)
    return RecipeNeed(NeedKind.PYTHON, found[1], re.sub(r"\s", "", found[2] or "")) if found else None


@shaped({"type": "string"})
def need(value: object, path: str, report: Report) -> object:
    """A need, as its text."""
    if isinstance(value, str) and parse_need(value) is not None:
        return value
    return report.problem(path, f"{show(value)} is not a need", _ALLOWED)
