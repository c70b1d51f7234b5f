"""Readers: each takes one value of the YAML, its path and the report, and returns what it means, or INVALID.

Values may come from an environment variable and then are text, so numbers are accepted as text as well. A boolean is
never a number. Readers know nothing of other keys: relations are `checks`' business.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable, Iterable, Mapping

from orchestrator.config.report import INVALID, UNRESOLVED, Report, join, nearest, show
from orchestrator.config.shape import Shape, any_of, or_null, shape_of, shaped, written
from orchestrator.core.address import FORMS, Address

Reader = Callable[[object, str, Report], object]

_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
_NUMERAL = r"^\s*[-+]?([0-9_]+\.?[0-9_]*|\.[0-9_]+)([eE][-+]?[0-9_]+)?\s*$"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PORT_MAX = 65535
_COUNT = r"\+?0*[1-9][0-9]{0,17}"
_RANK: Shape = any_of({"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^\\+?[0-9]{1,18}$"})
UNCATCHABLE = frozenset({signal.SIGKILL, signal.SIGSTOP})


def optional(read: Reader) -> Reader:
    """Null is allowed and stays None."""
    return shaped(lambda: or_null(shape_of(read)))(
        lambda value, path, report: None if value is None else read(value, path, report)
    )


def _one_of(names: Iterable[str]) -> str:
    """A pattern for signals' names, in any case."""
    short = (name.removeprefix("SIG") for name in names)
    spelled = (
        "".join(f"[{letter}{letter.lower()}]" if letter.isalpha() else letter for letter in one) for one in short
    )
    return f"^([Ss][Ii][Gg])?({'|'.join(spelled)})$"


@shaped({"type": ["string", "number"]})
def text(value: object, path: str, report: Report) -> object:
    """Text; a number is taken as it is written."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return report.problem(path, f"{show(value)} is not text", "allowed: text")
    if "\0" in str(value):
        return report.problem(path, "holds a NUL character", "remove it")
    return str(value)


@shaped({"type": ["string", "number"], "pattern": f"^{_NAME.pattern}$"})
def name(value: object, path: str, report: Report) -> object:
    """A short word that may become part of a file name and of a Redis key."""
    if not isinstance(value, bool) and isinstance(value, str | int | float) and _NAME.fullmatch(str(value)):
        if str(value).strip("."):
            return str(value)
        return report.problem(path, f"{show(value)} is a directory's name", "allowed: a word that is not only dots")
    return report.problem(path, f"{show(value)} is not a name", "allowed: 1 to 64 of A-Z a-z 0-9 . _ -")


@shaped({"type": "string", "pattern": r"^[^\s.-]+(\.[^\s.-]+)*$"})
def module(value: object, path: str, report: Report) -> object:
    """A Python module, by its dotted name."""
    if isinstance(value, str) and all(part.isidentifier() for part in value.split(".")):
        return value
    return report.problem(path, f"{show(value)} is not a module's name", "allowed: a dotted name, as in torch.nn")


def whole(minimum: int = 0, maximum: int | None = None, words: tuple[str, ...] = ()) -> Reader:
    """A whole number within bounds, or one of ``words``."""
    bounds = f"a whole number from {minimum}" + (f" to {maximum}" if maximum is not None else "")
    allowed = f"allowed: {', '.join([bounds, *words])}"
    digits = r"^\+?0*[1-9][0-9]{0,17}$" if minimum > 0 else r"^[-+]?[0-9]{1,18}$"
    numbers = {"type": "integer", "minimum": minimum} | ({} if maximum is None else {"maximum": maximum})

    @shaped(any_of(numbers, *([{"enum": [*words]}] if words else []), {"type": "string", "pattern": digits}))
    def read(value: object, path: str, report: Report) -> object:
        if value in words and isinstance(value, str):
            return value
        number = _whole(value)
        if number is None:
            fact = "is not allowed" if words else "is not a whole number"
            return report.problem(path, f"{show(value)} {fact}", f"{nearest(value, words)}{allowed}")
        if number < minimum:
            return report.problem(path, f"{number} is too small", allowed)
        if maximum is not None and number > maximum:
            return report.problem(path, f"{number} is too large", allowed)
        return number

    return read


def _whole(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and _WHOLE.fullmatch(value) else None


def number(minimum: float, below: float | None = None, *, what: str = "a number") -> Reader:
    """A finite number from ``minimum``, and less than ``below`` if that is given."""
    allowed = f"allowed: {what} from {minimum:g}" + (f" to below {below:g}" if below is not None else "")
    numbers = {"type": "number", "minimum": minimum} | ({} if below is None else {"exclusiveMaximum": below})

    @shaped(any_of(numbers, {"type": "string", "pattern": _NUMERAL}))
    def read(value: object, path: str, report: Report) -> object:
        found = _number(value)
        if found is None or not math.isfinite(found):
            return report.problem(path, f"{show(value)} is not a number", allowed)
        if found < minimum:
            return report.problem(path, f"{found:g} is {'negative' if found < 0 else 'too small'}", allowed)
        if below is not None and found >= below:
            return report.problem(path, f"{found:g} is too large", allowed)
        return found

    return read


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


seconds = number(0, what="seconds")


def word(*words: str) -> Reader:
    """One of ``words``."""

    @shaped({"enum": [*words]})
    def read(value: object, path: str, report: Report) -> object:
        if isinstance(value, str) and value in words:
            return value
        return report.problem(
            path, f"{show(value)} is not allowed", f"{nearest(value, words)}allowed: {', '.join(words)}"
        )

    return read


@shaped(any_of({"type": ["boolean", "integer"]}, {"type": "string", "pattern": "^(true|false|[-+]?[0-9]{1,18})$"}))
def counted_flag(value: object, path: str, report: Report) -> object:
    """True or false; a count, as in Slurm's variables, is true above 0."""
    found = {"true": 1, "false": 0}.get(value, _whole(value)) if isinstance(value, str) else _whole(value)
    if isinstance(value, bool):
        return value
    if found is None:
        return report.problem(path, f"{show(value)} is not allowed", "allowed: true, false, or a count")
    return found > 0


@shaped({"enum": [True, False, "true", "false"]})
def flag(value: object, path: str, report: Report) -> object:
    """True or false."""
    found = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
    if isinstance(found, bool):
        return found
    return report.problem(path, f"{show(value)} is not allowed", "allowed: true, false")


def list_of(read: Reader) -> Reader:
    """A list; a single value that is none stands for a list of one."""

    @shaped(lambda: _listed(read))
    def read_all(value: object, path: str, report: Report) -> object:
        if value is None or isinstance(value, Mapping):
            return report.problem(path, f"{show(value)} is not a list", "write [a, b], or [] for none")
        items = value if isinstance(value, list) else [value]
        found = [
            read(item, f"{path}[{at}]", report) if item is not UNRESOLVED else INVALID for at, item in enumerate(items)
        ]
        return INVALID if INVALID in found else tuple(found)

    return read_all


def _listed(read: Reader) -> Shape:
    one = written(shape_of(read))
    return any_of({"type": "array", "items": one}, *([one] if one else []))


def mapping_of(read: Reader) -> Reader:
    """A mapping whose keys are the user's own words."""

    @shaped(lambda: {"type": "object", "additionalProperties": written(shape_of(read))})
    def read_all(value: object, path: str, report: Report) -> object:
        if not isinstance(value, Mapping):
            return report.problem(path, f"{show(value)} is not a mapping", "write name: value, or {} for none")
        found = {
            str(key): read(item, join(path, str(key)), report) if item is not UNRESOLVED else INVALID
            for key, item in value.items()
        }
        return INVALID if INVALID in found.values() else found

    return read_all


@shaped({"type": "string", "pattern": _one_of(one.name for one in signal.Signals)})
def signal_number(value: object, path: str, report: Report) -> object:
    """A signal's name, with or without SIG."""
    names = {one.name.removeprefix("SIG"): int(one) for one in signal.Signals}
    given = str(value).upper().removeprefix("SIG")
    if isinstance(value, str) and given in names:
        return names[given]
    meant = [short for short, code in names.items() if code == _whole(value)]
    hint = f"did you mean {meant[0]!r}? " if meant else nearest(given, names)
    return report.problem(path, f"{show(value)} is not a signal", f"{hint}allowed: a name such as TERM, INT or USR1")


@shaped({"type": "string", "pattern": _one_of(one.name for one in signal.Signals if one not in UNCATCHABLE)})
def catchable(value: object, path: str, report: Report) -> object:
    """A signal that a process can handle."""
    found = signal_number(value, path, report)
    if found in UNCATCHABLE:
        return report.problem(path, f"{show(value)} cannot be caught", "allowed: any signal but KILL and STOP")
    return found


@shaped({"type": "string", "pattern": "^0?[0-7]{1,3}$"})
def umask(value: object, path: str, report: Report) -> object:
    """Octal digits, as text: a bare number has lost the base in which it was written."""
    if isinstance(value, str) and re.fullmatch(r"[0-7]{1,4}", value) and int(value, 8) <= 0o777:  # noqa: PLR2004
        return int(value, 8)
    return report.problem(path, f"{show(value)} is not octal digits in quotes", "allowed: '000' to '777', as in '022'")


@shaped(any_of({"type": "integer", "minimum": 1}, {"type": "string", "pattern": rf"^{_COUNT}(:{_COUNT})?$"}))
def nodes(value: object, path: str, report: Report) -> object:
    """``N`` or ``MIN:MAX`` as a pair."""
    allowed = "allowed: N or MIN:MAX, from 1, as in 2:4"
    parts = [_whole(part) for part in str(value).split(":")] if isinstance(value, str) else [_whole(value)]
    if None in parts or len(parts) > 2:  # noqa: PLR2004 - a pair
        return report.problem(path, f"{show(value)} is not a number of nodes", allowed)
    low, high = parts[0] or 0, parts[-1] or 0
    if low < 1 or high < 1:
        return report.problem(path, f"{show(value)} is too small", allowed)
    if low > high:
        return report.problem(path, f"{show(value)} has its minimum above its maximum", allowed)
    return (low, high)


@shaped({"type": "string", "pattern": r"^(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]/]+):[0-9]{1,5}$"})
def host_port(value: object, path: str, report: Report) -> object:
    """``HOST:PORT`` as a pair; an IPv6 host stands in brackets, and port 0 means a free one."""
    found = (
        re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:\[\]/]+)):([0-9]{1,5})", value)
        if isinstance(value, str)
        else None
    )
    if found is None or int(found[3]) > _PORT_MAX:
        return report.problem(path, f"{show(value)} is not HOST:PORT", "allowed: such as 10.0.0.1:6379 or [::1]:6379")
    return (found[1] or found[2], int(found[3]))


@shaped({"type": "string", "pattern": "^[A-Za-z0-9._~-]{8,128}$"})
def password(value: object, path: str, report: Report) -> object:
    """A password that can stand in a URL and in a server's settings as it is."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._~-]{8,128}", value):
        return value
    return report.problem(path, "is no password", "allowed: 8 to 128 of A-Z a-z 0-9 . _ ~ -, in quotes if all digits")


@shaped({"type": "string", "pattern": r"^[a-z+]+://\S*$"})
def redis_url(value: object, path: str, report: Report) -> object:
    """A URL of a server. Its password may be wrong; its shape may not."""
    try:
        Address.from_url(value if isinstance(value, str) and not re.search(r"\s", value) else "")
    except ValueError as reason:
        return report.problem(path, f"{show(value)} is not a Redis URL: {reason}", f"allowed: {FORMS}")
    return value


@shaped(any_of({"enum": ["all"]}, _RANK, {"type": "array", "items": written(_RANK)}))
def console(value: object, path: str, report: Report) -> object:
    """``all`` as None, else the ranks whose output is shown."""
    if value == "all":
        return None
    ranks = value if isinstance(value, list) else [value]
    if any(_whole(rank) is None or (_whole(rank) or 0) < 0 for rank in ranks):
        return report.problem(path, f"{show(value)} is not a choice of ranks", "allowed: all, or a list such as [0, 3]")
    return frozenset(_whole(rank) for rank in ranks)


@shaped({"type": "string"})
def pattern(value: object, path: str, report: Report) -> object:
    """A regular expression."""
    try:
        re.compile(value if isinstance(value, str) else "(")
    except re.error as error:
        return report.problem(path, f"{show(value)} is not a regular expression: {error}", "see Python's re")
    return value
