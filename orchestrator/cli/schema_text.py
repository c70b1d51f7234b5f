"""``orchestratectl schema``: the JSON schema of a recipe, for editors, with what conf/ says of each key.

Invariant: a description is a comment of conf/, word for word, and a default is a value there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.cli import yaml12
from orchestrator.cli.paths import data_dir
from orchestrator.config.json_schema import recipe_schema
from orchestrator.config.schema import GROUPS
from orchestrator.config.shape import Shape

_KEY = re.compile(r"( *)(\w+):(?: +((?:[^#'\"]|'[^']*'|\"[^\"]*\"|(?<! )#)*?))?(?: +# (.*))?$")
_MORE = re.compile(r" +# +(.*)$")


def schema() -> dict[str, Any]:
    """The whole schema, as JSON-ready values."""
    conf = data_dir("conf")
    about = dict(_about(conf / "config.yaml", ""))
    for group, choices in GROUPS.items():
        for kind in choices:
            for path, found in _about(conf / group / f"{kind}.yaml", group):
                about.setdefault(path, found)
        first = (_opening(conf / group / f"{kind}.yaml") for kind in choices)
        about[group] = {"description": "\n".join(first)}
    return recipe_schema(about)


def _opening(file: Path) -> str:
    return file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").partition("=")[2]


def _about(file: Path, above: str) -> Iterator[tuple[str, Shape]]:
    """Each key of a file with its comment, and its value unless that is looked up."""
    text = file.read_text(encoding="utf-8")
    data = yaml12.read(text, str(file)).data
    for path, comment in _comments(text):
        value = data
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        where = f"{above}.{path}" if above else path
        looked_up = (isinstance(value, dict) and value) or "${" in str(value)
        found = {"description": comment} if comment else {}
        yield where, found if looked_up else {**found, "default": value}


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """The keys of a block of YAML, and what is said behind each, also on the next lines; else what is said above it."""
    open_: list[tuple[int, str]] = []
    last: list[str] | None = None
    found: list[tuple[str, list[str]]] = []
    above: list[str] = []
    for line in text.splitlines():
        key, more = _KEY.match(line), _MORE.match(line)
        if key is not None:
            indent = len(key[1])
            open_ = [(at, name) for at, name in open_ if at < indent] + [(indent, key[2])]
            last, above = [key[4]] if key[4] else above, []
            found.append((".".join(name for _, name in open_), last))
        elif more is not None and last:
            last.append(more[1])
        else:
            last, above = None, [*above, line.lstrip(" #")] if line.lstrip().startswith("# ") else []
    return ((path, " ".join(comment)) for path, comment in found)
