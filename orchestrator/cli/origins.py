"""Where a value came from, looked up only when something has to be said about it.

The command line wins over recipes, and those over ``conf/``; within each, the later one. Invariant: an origin is shown
as the person wrote it: the override's text, or file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from orchestrator.cli import yaml12
from orchestrator.cli.argv import Line, Override
from orchestrator.cli.paths import data_dir, shown
from orchestrator.cli.recipes import Recipe
from orchestrator.config.schema import GROUPS
from orchestrator.errors import ConfigError, Problem

_INDEX = re.compile(r"\[\d+\]$")
_SHORT_FORM = re.compile(r"\.kind$|(?<=\.depends_on)\.[^.]+$")  # restart: never, depends_on: [data]


class Origins:
    """The sources of one composed job."""

    def __init__(
        self,
        line: Line,
        loaded: Mapping[str, Recipe],
        choices: Mapping[str, object],
        united: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """``loaded`` has the most significant recipe first; ``choices`` are Hydra's, by group.

        ``united`` has the origins of what several recipes say together.
        """
        self._overrides = list(reversed(line.overrides))
        self._recipes = list(loaded.values())
        self._choices = choices
        self._united = united

    def fill_in(self, problem: Problem) -> Problem:
        """``problem`` with its origin, if it has none yet and one can be told."""
        return problem if problem.origin else replace(problem, origin=self.of(problem.path))

    def anyhow(self, path: str) -> str:
        """Where the value at ``path`` came from, also if it is null or made up."""
        return self.of(path) or next(self._in_conf(path, given=False), "")

    def of(self, path: str) -> str:
        """Where the value at ``path`` came from; empty if nobody gave one."""
        for override in self._overrides:
            if gives(override, path):
                return override.origin
        if path in self._united:
            return self._united[path]
        short = _SHORT_FORM.sub("", path)
        single = _INDEX.sub("", path)  # one value, where a list may stand
        for recipe in self._recipes:
            line = recipe.lines.get(path) or recipe.lines.get(short) or recipe.lines.get(single)
            if line is not None:
                return f"{shown(recipe.path)}:{line}"
        for override in self._overrides:
            if _is_at_or_below(override.key, path):
                return override.origin
        if path.startswith("roles.") and path.count(".") > 1:  # what a role does not say itself, the job does
            return self.of(path.split(".", 2)[2])
        return next(self._in_conf(path), "")

    def _in_conf(self, path: str, *, given: bool = True) -> Iterator[str]:
        """The lines of our own files that give ``path`` a value; ``given``: other than null."""
        group, _, inner = path.partition(".")
        choice = self._choices.get(group)
        for name, key in ((f"{group}/{choice}.yaml", inner), ("config.yaml", path)):
            file = data_dir("conf") / name
            if key and (group in GROUPS or name == "config.yaml") and file.is_file():
                line = _line(file, key, given=given)
                if line is not None:
                    yield f"{shown(file)}:{line}"


def _line(file: Path, key: str, *, given: bool) -> int | None:
    try:
        document = yaml12.read(file.read_text(encoding="utf-8"), str(file))
    except (OSError, ConfigError):  # a --config-dir may shadow the file with anything; then nothing can be told
        return None
    value = document.data
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    made_up = isinstance(value, str) and value.startswith("${orchestrate.")  # nobody's value
    return None if given and (made_up or value in (None, {}, [])) else document.lines.get(key)


def gives(override: Override, path: str) -> bool:
    """Whether ``override`` says something about ``path``: a mapping says it only about the keys that it names."""
    if override.is_choice:
        return path in (override.key, f"{override.key}.kind")
    below = _SHORT_FORM.sub("", path).removeprefix(override.key)
    named = set(re.findall(r"\w+", override.text.partition("=")[2]))
    return _is_at_or_below(path, override.key) and (
        below[:1] != "." or set(re.findall(r"[A-Za-z_]\w*", below)) <= named
    )


def _is_at_or_below(path: str, above: str) -> bool:
    return bool(above) and (path == above or path.startswith((f"{above}.", f"{above}[")))
