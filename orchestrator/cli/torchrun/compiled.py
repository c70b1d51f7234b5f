"""What a command line of torchrun's means, key by key: for running it, and for printing it as a recipe.

Invariant: both are made of the same settings, so that they cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from orchestrator.cli.argv import Line, Override
from orchestrator.cli.quoting import literal, quoted
from orchestrator.config.schema import GROUPS
from orchestrator.errors import Problem


class Open(str):
    """Text whose ``${…}`` are for our configuration to fill in."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of ours, its value, and how it was said."""

    key: str
    value: Any
    said: str


@dataclass(slots=True)
class Compiled:
    """A job, as far as it differs from our defaults; what cannot be honoured; and what is wrong."""

    settings: list[Setting] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def set(self, key: str, value: object, said: str = "torchrun's default") -> None:
        """Give a key its value."""
        self.settings.append(Setting(key, value, said))

    def line(self, run_dir: str) -> Line:
        """The command line of ours that means the same; the run's files go to ``run_dir``."""
        line = Line()
        for one in self.settings:
            group = one.key.removesuffix(".kind")
            if group in GROUPS:
                line.chosen.add(group)
                line.overrides.append(Override(one.said, group, f"{group}={one.value}"))
            else:
                line.overrides.append(Override(one.said, one.key, f"++{one.key}={_value(one.value)}"))
        line.overrides.append(Override("hydra.run.dir", "hydra.run.dir", f"hydra.run.dir={quoted(run_dir)}"))
        return line

    def recipe(self, name: str, words: str) -> str:
        """The same as a recipe; ``words`` is the command line that it was made of."""
        from orchestrator.cli import yaml12  # noqa: PLC0415 - 10 ms that a start need not pay

        data: dict[str, Any] = {"recipe": {"name": name, "description": _plain(words)}}
        for one in self.settings:
            *sections, last = one.key.split(".")
            place = data
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = _plain(one.value)
        head = [f"# {note}" for note in self.notes]
        return "\n".join([*head, yaml12.write(data)])


def _value(value: Any) -> str:  # noqa: ANN401 - whatever YAML holds
    """A value in the words of Hydra's overrides."""
    if isinstance(value, str):
        return quoted(value, literal=not isinstance(value, Open))
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(_value(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)


def _plain(value: Any) -> Any:  # noqa: ANN401 - as above
    """A value as it stands in YAML."""
    if isinstance(value, str):
        return str(value) if isinstance(value, Open) else literal(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
