"""Hydra's flags, as far as the command line must be sorted by them: which there are, and which take a value.

Hydra's own parser reads them afterwards. They are known here because it cannot read flags between overrides.
Invariant: a flag and its value stay together, and every flag that is passed on is one that Hydra has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.cli import torchrun_hints
from orchestrator.cli.paths import SUFFIXES, absolute
from orchestrator.config.report import nearest
from orchestrator.errors import Problem

_PLAIN = {
    "--help": "-h",
    "--hydra-help": "",
    "--version": "",
    "--resolve": "",
    "--run": "-r",
    "--multirun": "-m",
    "--shell-completion": "-sc",
}
_VALUED = {
    "--cfg": "-c",
    "--package": "-p",
    "--config-path": "-cp",
    "--config-name": "-cn",
    "--config-dir": "-cd",
    "--info": "-i",
}
_SHORT = {short: name for name, short in (_PLAIN | _VALUED).items() if short}
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_ALLOWED = {"--cfg": ("job", "hydra", "all"), "--info": _INFO}
_SHOWING = ("--help", "--hydra-help", "--cfg", "--info", "--shell-completion")


@dataclass(slots=True)
class Flags:
    """The flags of a command line, by their long names; a flag without a value has an empty one."""

    given: dict[str, str] = field(default_factory=dict)
    instead: list[str] = field(default_factory=list)  # what to write for flags of torchrun's

    @property
    def shows(self) -> bool:
        """Whether something is asked for other than to run."""
        return any(name in self.given for name in _SHOWING)

    @property
    def completes(self) -> bool:
        """Whether the words are for the shell's completion."""
        return "--shell-completion" in self.given

    @property
    def sweeps(self) -> bool:
        """Whether several jobs are asked for."""
        return "--multirun" in self.given

    @property
    def brings_config(self) -> bool:
        """Whether a directory of the user's may add choices that we do not know."""
        return "--config-dir" in self.given or "--config-path" in self.given

    def directory(self, name: str) -> str | None:
        """The value of a flag that names a directory, absolute."""
        return absolute(self.given[name]) if name in self.given else None

    def words(self) -> list[str]:
        """The flags as Hydra's parser takes them, before everything else."""
        return [f"{name}={value}" if name in _VALUED else name for name, value in self.given.items()]

    def take(self, words: list[str], problems: list[Problem]) -> list[str]:
        """Take the flags out of ``words``; what is left is returned in its order."""
        rest: list[str] = []
        waiting = list(reversed(words))
        while waiting:
            word = waiting.pop()
            if word.startswith("-") and word != "-" and not _is_recipe(word):
                self._flag(word, waiting, problems)
            elif word.endswith(".py"):
                return [*rest, word, *reversed(waiting)]  # what follows a script is the script's
            else:
                rest.append(word)
        return rest

    def _flag(self, word: str, waiting: list[str], problems: list[Problem]) -> None:
        start, equals, value = word.partition("=")
        name = _long(start)
        if name is None and torchrun_hints.recognised(start):
            if not equals and torchrun_hints.takes_value(start) and waiting and not waiting[-1].endswith(".py"):
                value = waiting.pop()
            self.instead += filter(None, [torchrun_hints.override(start, value)])
            problems.append(torchrun_hints.problem(start, value))
        elif name is None:
            hint = nearest(start, [*_PLAIN, *_VALUED])
            problems.append(Problem(start, "is no flag", f"{hint}flags of the command to run stand behind --"))
        elif name in _PLAIN:
            self.given[name] = ""
        elif equals:
            self.given[name] = value
        elif name == "--info":
            self.given[name] = waiting.pop() if waiting and waiting[-1] in _INFO else "all"
        elif waiting:
            self.given[name] = waiting.pop()
        else:
            problems.append(Problem(start, "needs a value", f"write {start} VALUE"))
        allowed = _ALLOWED.get(name or "", ())
        if name in self.given and allowed and self.given[name] not in allowed:
            fact, remedy = f"{self.given[name]!r} is not allowed", f"allowed: {', '.join(allowed)}"
            problems.append(Problem(start, fact, remedy))


def _is_recipe(word: str) -> bool:
    """Whether it is a file, of an odd name."""
    return word.endswith(SUFFIXES) and Path(word).is_file()


def _long(start: str) -> str | None:
    """The long name of a flag, which may be shortened as long as it is clear."""
    if start in _SHORT:
        return _SHORT[start]
    known = [*_PLAIN, *_VALUED]
    matches = (
        [start] if start in known else [name for name in known if start.startswith("--") and name.startswith(start)]
    )
    return matches[0] if len(matches) == 1 else None
