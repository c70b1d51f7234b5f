"""The one pass over the command line before Hydra sees it: from what people type to what Hydra's parsers take.

Flags move to the front, a YAML file becomes ``recipe=``, ``a.b=c`` is opened for keys that conf/ does not have, and
what follows ``--`` becomes ``worker.cmd``, word for word. Choices are checked here, so that a typo in one is a problem
among the others. Invariant: every word ends up in exactly one place, and messages show it as it was typed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.cli import recipes, shelves
from orchestrator.cli.flags import Flags
from orchestrator.cli.paths import SUFFIXES
from orchestrator.cli.quoting import quoted, unquoted
from orchestrator.cli.secrets import MASK, is_secret_name
from orchestrator.config.report import listed, nearest
from orchestrator.config.roles import CHOICES
from orchestrator.config.schema import GROUPS
from orchestrator.errors import Problem

_OVERRIDE = re.compile(r"(~[^=]*|[^=\s]+=.*)", re.DOTALL)
_ONE_URL = re.compile(r"[\w+]+://(?!.*://)[^'\"]*")
_SWEEP = re.compile(r"[,(*]")  # a list, a function such as range(…) or a glob: Hydra's business
_ROLE_CHOICE = re.compile(rf"roles\.[^.]+\.({'|'.join(CHOICES)})")
_INLINE = re.compile(r"\{\s*kind:\s*(\w+)\s*(?:,(.*))?\}", re.DOTALL)
TAIL = "the command line after --"


@dataclass(frozen=True, slots=True)
class Override:
    """``key=value``: as it was typed, and as Hydra is given it."""

    text: str
    key: str
    hydra: str

    @property
    def origin(self) -> str:
        """Where a value came from, for messages."""
        if self.text == TAIL:
            return TAIL
        secret = "." in self.key and is_secret_name(self.key.rpartition(".")[2])
        return f"override {self.text.partition('=')[0]}={MASK}" if secret else f"override {self.text}"

    @property
    def is_choice(self) -> bool:
        """Whether it chooses a file, and gives no value."""
        return self.key in (*GROUPS, "recipe") and not self.hydra.startswith("+")


@dataclass(slots=True)
class Line:
    """A command line, sorted."""

    flags: Flags = field(default_factory=Flags)
    overrides: list[Override] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    chosen: set[str] = field(default_factory=set)  # groups whose kind is given
    strays: bool = False  # words that were not understood: the command to run may be among them
    script: bool = False  # a script stands where a recipe does; nothing else is worth saying

    @property
    def hydra_overrides(self) -> list[str]:
        """What Hydra is given."""
        return [override.hydra for override in self.overrides]


def parse(words: Sequence[str]) -> Line:
    """Sort the words of a command line; nothing is composed yet."""
    cut = words.index("--") if "--" in words else len(words)
    line = Line()
    rest = line.flags.take(list(words[:cut]), line.problems)
    line.strays = bool(line.problems)
    if line.flags.completes:
        line.overrides = [Override(word, "", word) for word in rest]
        return line
    shelves.bring([*filter(None, [line.flags.directory("--config-dir")]), *_searched(rest)])
    files: list[str] = []
    for at, word in enumerate(rest):
        if word.endswith(SUFFIXES) and Path(word).is_file():
            files.append(word)
        elif _OVERRIDE.fullmatch(word):
            _override(word, line)
        elif word.endswith(".py"):
            line.problems, line.script = [_script(words, [*line.flags.instead, *rest[:at]], word)], True
            return line
        else:
            line.strays = True
            line.problems.append(_stray(word))
    _files(files, line)
    if cut < len(words):
        _tail(list(words[cut + 1 :]), line)
    return line


def _searched(words: Sequence[str]) -> list[str]:
    """The places that hydra.searchpath names."""
    given = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("hydra.searchpath=")]
    return [unquoted(place.strip()) for value in given for place in value.strip("[]").split(",") if place.strip()]


def _script(words: Sequence[str], before: Sequence[str], script: str) -> Problem:
    behind, kept, program = words[words.index(script) :], list(before), list[str]()
    while kept and not (_OVERRIDE.fullmatch(kept[-1]) or kept[-1].endswith(SUFFIXES)):
        program.insert(0, kept.pop())  # as in python train.py
    command = shlex.join([*(program or ["python"]), *[word for word in behind if word != "--"]])
    return Problem(script, "is a script, not a recipe", f"write: {' '.join(['orchestrate', *kept, '--', command])}")


def _stray(word: str) -> Problem:
    if word.endswith(SUFFIXES):
        return Problem(word, "there is no such file", "give the path of a recipe, or recipe=NAME")
    hint = f"did you mean recipe={word}? " if word in recipes.names() else ""
    return Problem(word, "is neither key=value, a flag nor a recipe's file", f"{hint}a command to run stands behind --")


def _files(files: list[str], line: Line) -> None:
    if not files:
        return
    given = [override for override in line.overrides if override.key == "recipe"]
    if given:
        fact = f"is given twice, as {given[0].text} and as {files[0]}"
        line.problems.append(Problem("recipe", fact, "combine them: recipe=[first,second]"))
        return
    paths = [quoted(recipes.spelled(name if recipes.is_path(name) else f"./{name}")) for name in files]
    value = paths[0] if len(paths) == 1 else f"[{','.join(paths)}]"
    line.overrides.append(Override(" ".join(files), "recipe", f"recipe={value}"))


def _tail(command: list[str], line: Line) -> None:
    if any(override.key == "worker.cmd" for override in line.overrides):
        line.problems.append(Problem("worker.cmd", "is given twice, as an override and after --", "remove one of them"))
    elif command:
        value = ",".join(quoted(word, literal=True) for word in command)
        line.overrides.append(Override(TAIL, "worker.cmd", f"++worker.cmd=[{value}]"))
    else:
        line.problems.append(Problem("worker.cmd", "is empty", "write the command to run behind --", TAIL))


def _override(word: str, line: Line) -> None:
    key, _, value = word.partition("=")
    group = key.removesuffix(".kind")
    if word.startswith(("+", "~", "hydra.", "hydra/", "hydra=")) or "@" in key or "/" in key or ":" in key:
        line.overrides.append(Override(word, key.lstrip("+~"), word))
    elif group in GROUPS:
        _group(word, group, value, line)
    elif key == "recipe" and not value.startswith("{"):
        _recipe(word, value, line)
    elif key == "rendezvous.url" and _ONE_URL.fullmatch(value):  # whose commas and options mean something to Hydra
        line.overrides.append(Override(word, key, f"++{key}={quoted(value)}"))
    elif _ROLE_CHOICE.fullmatch(key) and not value.startswith("{"):
        line.overrides.append(Override(word, key, f"++{key}.kind={value}"))
    else:
        line.overrides.append(Override(word, key, f"++{word}"))


def _group(word: str, group: str, value: str, line: Line) -> None:
    """``restart=never``, ``restart.kind=never`` or ``restart={kind: never, …}``."""
    inline = _INLINE.fullmatch(value)
    if inline is None and value.startswith("{"):
        line.overrides.append(Override(word, group, f"++{word}"))
        return
    _choice(word, group, inline[1] if inline else value, line)
    if inline and (inline[2] or "").strip():
        line.overrides.append(Override(word, group, f"++{group}={{{inline[2]}}}"))


def _choice(word: str, group: str, value: str, line: Line) -> None:
    known = GROUPS[group]
    computed = not value.startswith("[") and (line.flags.brings_config or "(" in value or "*" in value)
    choices = [unquoted(one.strip()) for one in value.split(",")] if line.flags.sweeps else [unquoted(value)]
    wrong = [] if computed or _listed(value, known) else [one for one in choices if one not in known]
    for choice in wrong:
        remedy = f"{nearest(choice, known)}allowed: {listed(known)}"
        line.problems.append(Problem(group, f"{choice!r} is not a choice", remedy, f"override {word}"))
    if not wrong:
        line.chosen.add(group)
        line.overrides.append(Override(word, group, f"{group}={value}"))


def _listed(value: str, known: Container[str]) -> bool:
    """Whether it names several choices, which need -m; without it, that is said later."""
    return "," in value and all(unquoted(one.strip()) in known for one in value.split(","))


def _recipe(word: str, value: str, line: Line) -> None:
    several = value.startswith("[") and value.endswith("]")
    names = [unquoted(name.strip()) for name in (value[1:-1].split(",") if several else [value])]
    if value == "null" or "--config-path" in line.flags.given or (not several and _SWEEP.search(value)):
        line.overrides.append(Override(word, "recipe", word))
        return
    names = [str(Path(name).expanduser()) if name.startswith("~") else name for name in names]
    found = [recipes.find(name) for name in names]
    names = [str(path) if path and name.startswith("pkg:") else name for name, path in zip(names, found, strict=True)]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    line.problems += [recipes.missing(name, origin=f"override {word}") for name in missing]
    if not missing:
        paths = [quoted(recipes.spelled(name)) for name in names]
        value = f"[{','.join(paths)}]" if several else paths[0]
        line.overrides.append(Override(word, "recipe", f"recipe={value}"))
