"""YAML 1.2 as recipes are written in: ``2:4`` is text, ``022`` is 22, and only true and false are booleans.

PyYAML parses; what a scalar means is decided here, by the core schema of YAML 1.2.2, section 10.3.2. A document from a
stranger is bounded before it is built. Invariant: `read` returns plain data, or raises a ConfigError with the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from orchestrator.errors import ConfigError, Problem

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
MAX_DEPTH = 50
_TAG = "tag:yaml.org,2002:"
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BASE):  # type: ignore[misc]  # PyYAML with or without libyaml
    """Composes nodes; what they mean is read by `_Reader`."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own protocol


CORE: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
)
for _name, _pattern, _first in CORE:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), [*_first])
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile("$"), [""])


@dataclass(frozen=True, slots=True)
class Document:
    """One file: its data, and in which line each key stands."""

    data: Any
    lines: dict[str, int]


def read(text: str, shown: str) -> Document:
    """The document in ``text``; ``shown`` names the file in messages."""
    try:
        _bound(text, shown)
        node = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{shown}:{mark.line + 1}:{mark.column + 1}" if mark else shown
        _refuse(f"is not YAML: {_said(error)}", "correct the line", where)
    except yaml.YAMLError as error:
        _refuse(f"is not YAML: {str(error).splitlines()[0]}", "it must be UTF-8 text", shown)
    reader = _Reader(shown)
    data = reader.read(node, "") if node is not None else {}
    if reader.problems:
        raise ConfigError(reader.problems)
    return Document(data, reader.lines)


def _said(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or ""
    return f"{error.context}, {problem}" if error.context and problem.startswith("but ") else problem


def _refuse(fact: str, remedy: str, origin: str) -> NoReturn:
    raise ConfigError([Problem("recipe", fact, remedy, origin)])


def _bound(text: str, shown: str) -> None:
    """Refuse what is too large or too deep, before anything recurses into it."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        _refuse("is larger than 1 MiB", "a recipe is a page of text", shown)
    depth = 0
    for count, event in enumerate(yaml.parse(text, _Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or count > 3 * MAX_NODES:
            mark = event.start_mark
            line = f"{shown}:{mark.line + 1}" if mark else shown
            _refuse(f"is nested deeper than {MAX_DEPTH} levels, or has too many nodes", "write it plainly", line)


class _Reader:
    """Builds data from nodes. Aliases are built anew each time and count each time, so that they cannot explode."""

    def __init__(self, shown: str) -> None:
        self.problems: list[Problem] = []
        self.lines: dict[str, int] = {}
        self._shown = shown
        self._count = 0
        self._above: list[int] = []

    def read(self, node: yaml.Node, path: str) -> Any:  # noqa: ANN401 - YAML holds anything
        """The data of ``node``, which stands at ``path``."""
        self._count += 1
        if self._count > MAX_NODES:
            _refuse(f"has more than {MAX_NODES} nodes after aliases", "write it plainly", self._at(node))
        if id(node) in self._above:
            return self._problem(path, "holds itself", "remove the alias", node)
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._above.append(id(node))
        try:
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, path)
            if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
                return self._problem(path, f"has the tag {node.tag}", "allowed: plain values", node)
            if isinstance(node, yaml.SequenceNode):
                return [self.read(item, f"{path}[{at}]") for at, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._above.pop()

    def _mapping(self, node: yaml.Node, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
                for part in self._merged(value, path):
                    merged = {**part, **merged}
                continue
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            where = f"{path}.{name}" if path else name
            if not name:
                self._problem(path or "recipe", "has a key that is no text", "write name: value", key)
            elif name in first:
                self._problem(where, f"is given twice, first in line {first[name]}", "remove one of them", key)
            else:
                self.lines[where] = first[name] = key.start_mark.line + 1
                found[name] = self.read(value, where)
        return {**merged, **found}

    def _merged(self, node: yaml.Node, path: str) -> Iterator[dict[str, Any]]:
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            data = self.read(part, path)
            if isinstance(data, dict):
                yield data
            else:
                self._problem(path or "recipe", "merges what is no mapping", "<<: takes a mapping", part)

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:  # noqa: ANN401 - YAML holds anything
        text, tag = node.value, node.tag.removeprefix(_TAG)
        try:
            return _SCALARS[tag](text)
        except (KeyError, ValueError):
            return self._problem(path, f"cannot be read as {node.tag}", "allowed: plain values", node)

    def _problem(self, path: str, fact: str, remedy: str, node: yaml.Node) -> None:
        self.problems.append(Problem(path or "recipe", fact, remedy, self._at(node)))

    def _at(self, node: yaml.Node) -> str:
        return f"{self._shown}:{node.start_mark.line + 1}"


def _int(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(text: str) -> float:
    return float(re.sub(r"\.(?=[iInN])", "", text))


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_SCALARS: dict[str, Any] = {
    "null": lambda _: None,
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": str,
    "merge": str,
    "value": str,
}


class _Dumper(yaml.SafeDumper):
    """Writes text in quotes when YAML 1.1 or 1.2 would read it as something else."""


_PLAIN = re.compile("(?:" + "|".join(pattern for _, pattern, _ in CORE) + ")?$")


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(f"{_TAG}str", value, style="'" if _PLAIN.match(value) else None)


_Dumper.add_representer(str, _text)


def write(data: Any) -> str:  # noqa: ANN401 - YAML holds anything
    """``data`` as YAML that reads the same as 1.1 and as 1.2."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20, default_flow_style=False)


def write_line(data: dict[str, Any]) -> str:
    """A mapping with one key, on one line if its value holds no mapping and no line break."""
    (value,) = data.values()
    flow = None if isinstance(value, list | dict) and value else False
    return str(
        yaml.dump(data, Dumper=_Dumper, allow_unicode=True, width=1 << 20, default_flow_style=flow, sort_keys=False)
    ).rstrip("\n")
