"""``worker.cmd``, ``worker.flags`` and ``worker.env``: from YAML values to the text that a process is given.

Booleans become ``true`` and ``false``, numbers their shortest form, and text stays as it is. Invariant: an argument is
never split, joined or guessed at, except that ``cmd`` as one string is split once, as a shell splits it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping

from orchestrator.config.report import INVALID, UNRESOLVED, Mark, Report, show
from orchestrator.config.shape import SCALAR, any_of, shaped, written

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

Flag = str | bool | None | tuple[str, ...]


def scalar(value: object) -> str | None:
    """A single value as a process sees it; None if it is no single value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return value if isinstance(value, str) else None


def _argument(value: object, path: str, report: Report) -> str | Mark:
    found = scalar(value)
    if found is None:
        fact = "null is no argument" if value is None else f"{show(value)} is not a single value"
        return report.problem(path, fact, "allowed: text, a number, true or false; remove it, or write '' for empty")
    return found if "\0" not in found else report.problem(path, "holds a NUL character", "remove it")


@shaped(any_of({"type": "string"}, {"type": "array", "items": written(SCALAR)}, {"type": "null"}))
def command(value: object, path: str, report: Report) -> object:
    """An argv: a list, or one string that is split as a shell splits it. Null and nothing are None."""
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError as error:
            return report.problem(path, f"{show(value)} cannot be split: {str(error).lower()}", "close the quotes")
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        return report.problem(path, f"{show(value)} is not a command", "allowed: a list of arguments, or one string")
    found = [_argument(item, f"{path}[{at}]", report) for at, item in enumerate(value) if item is not UNRESOLVED]
    if INVALID in found:
        return INVALID
    return tuple(found) if found and found[0] else report.problem(path, "begins with an empty word", "name a program")


@shaped({"type": ["string", "number", "boolean", "null"]})
def env_value(value: object, path: str, report: Report) -> object:
    """An environment variable's value; null unsets it."""
    name = path.rpartition("worker.env.")[2]
    if not name or "=" in name or "\0" in name:
        return report.problem(path, f"{show(name)} is no variable's name", "allowed: text without = and NUL")
    return None if value is None else _argument(value, path, report)


@shaped(any_of({"type": ["string", "number", "boolean", "null"]}, {"type": "array", "items": written(SCALAR)}))
def flag_value(value: object, path: str, report: Report) -> object:
    """A flag's value: single, several, true for a bare flag, false or null for none."""
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, list):
        return _argument(value, path, report)
    found = [_argument(item, f"{path}[{at}]", report) for at, item in enumerate(value) if item is not UNRESOLVED]
    return INVALID if INVALID in found else tuple(found)


@shaped({"type": "string", "pattern": r"^[^\s:]+:[^\s:]+$"})
def function_name(value: object, path: str, report: Report) -> object:
    """``package.module:function``, as a name."""
    if isinstance(value, str) and _FUNCTION.fullmatch(value):
        return value
    return report.problem(path, f"{show(value)} is not a function's name", "allowed: package.module:function")


@shaped({"type": "array"})
def json_list(value: object, path: str, report: Report) -> object:
    """A function's arguments: whatever YAML can say."""
    if not isinstance(value, list):
        return report.problem(path, f"{show(value)} is not a list", "write [a, b], or [] for none")
    return INVALID if _holes(value) else tuple(value)


@shaped({"type": "object"})
def json_mapping(value: object, path: str, report: Report) -> object:
    """A function's arguments by name."""
    if not isinstance(value, Mapping):
        return report.problem(path, f"{show(value)} is not a mapping", "write name: value, or {} for none")
    return INVALID if _holes(value) else dict(value)


def _holes(value: object) -> bool:
    """Whether something in it was not resolved, which was said already."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return value is UNRESOLVED or any(_holes(item) for item in items)


def call(name: str, args: Iterable[object], kwargs: Mapping[str, object]) -> tuple[str, ...]:
    """The command that calls a function. Macros in its arguments are filled in as in any command."""
    given = json.dumps([list(args), dict(kwargs)])
    return ("__python__", "-u", "-m", "orchestrator.entrypoint", name, given)


def flag_arguments(flags: Mapping[str, Flag], style: str) -> tuple[str, ...]:
    """The arguments that ``flags`` append to a command, in their order."""
    spell = {"gnu": _gnu, "spaced": _spaced, "hydra": _hydra}[style]
    return tuple(argument for name, value in flags.items() for argument in spell(name, value))


def _gnu(name: str, value: Flag) -> Iterable[str]:
    if isinstance(value, tuple):
        return [argument for item in value for argument in _gnu(name, item)]
    if value is None or isinstance(value, bool):
        return [_dashed(name)] if value else []
    return [f"{_dashed(name)}={value}"] if len(name) > 1 else [_dashed(name), value]


def _spaced(name: str, value: Flag) -> Iterable[str]:
    if isinstance(value, tuple):
        return [_dashed(name), *value]
    if value is None or isinstance(value, bool):
        return [_dashed(name)] if value else []
    return [_dashed(name), value]


def _hydra(name: str, value: Flag) -> Iterable[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"{name}={str(value).lower()}"]  # Hydra has no bare flags, and left out is not false
    if isinstance(value, tuple):
        return [f"{name}=[{','.join(_quoted(item) for item in value)}]"]
    return [f"{name}={_quoted(value)}"]


def _dashed(name: str) -> str:
    return name if name.startswith("-") else f"--{name}" if len(name) > 1 else f"-{name}"


def _quoted(value: str) -> str:
    """Hydra's own quoting, for what its grammar would take apart."""
    if re.fullmatch(r"[A-Za-z0-9_./:@%+$*?|-]+", value):
        return value
    return in_quotes(value)


def in_quotes(text: str) -> str:
    """``text`` as a string of Hydra's, in which a backslash counts only before a quote or another one before it."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"
