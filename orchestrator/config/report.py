"""What is wrong with a configuration, collected: every problem of one pass, and the notes that go with a good one.

Nothing here stops at the first problem, and nothing here raises. A reader that cannot use a value reports why and
returns `INVALID`; whoever asked for the value goes on with its default, so that the rest is judged too. Invariant: a
value that is `UNRESOLVED` has its problem in the report already, and is never reported a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from orchestrator.errors import Problem


class Mark(Enum):
    """Stands where a value should be, and is none."""

    INVALID = "invalid"  # a reader's answer to a value that it cannot use
    UNRESOLVED = "unresolved"  # an interpolation that led nowhere


INVALID = Mark.INVALID
UNRESOLVED = Mark.UNRESOLVED


class Report:
    """Collects problems and notes; ``origin`` is filled in later, by whoever knows the files."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []
        self._holes: set[str] = set()

    def problem(self, path: str, fact: str, remedy: str = "", origin: str = "") -> Mark:
        """Add a problem; returns INVALID, so that a reader can end with it."""
        self.problems.append(Problem(path, fact, remedy, origin))
        return INVALID

    def hole(self, path: str, fact: str, remedy: str = "") -> Mark:
        """Add a problem that leaves nothing below ``path`` to be judged."""
        self._holes.add(path)
        return self.problem(path, fact, remedy)

    def note(self, path: str, fact: str, remedy: str = "") -> None:
        """Add a remark that does not keep the job from starting."""
        self.notes.append(Problem(path, fact, remedy))

    def without(self, hidden: Callable[[str], bool]) -> Report:
        """A report that begins with what is wrong here, but for the paths that are ``hidden``."""
        found = Report()
        found.problems = [problem for problem in self.problems if not hidden(problem.path)]
        found._holes = {path for path in self._holes if not hidden(path)}
        return found

    def clean(self, *paths: str) -> bool:
        """Whether the values at and below all ``paths`` were readable: a check of several values needs all of them."""
        return not any(
            problem.path == path or _below(problem.path, path) for problem in self.problems for path in paths
        ) and not any(_below(path, hole) for hole in self._holes for path in paths)


def _below(path: str, parent: str) -> bool:
    return path.startswith((f"{parent}.", f"{parent}["))


def show(value: object) -> str:
    """A value as a person wrote it, short enough for one line, with control characters escaped."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-15:]}"  # noqa: PLR2004 - what fits a line


def nearest(wrong: object, known: Iterable[str]) -> str:
    """``did you mean 'budget'? `` when something known is near, else nothing."""
    if not isinstance(wrong, str):
        return ""
    from difflib import get_close_matches  # noqa: PLC0415 - needed only when something is wrong

    by_lower = {word.lower(): word for word in known}
    near = get_close_matches(wrong.lower(), list(by_lower), n=1)
    return f"did you mean {by_lower[near[0]]!r}? " if near else ""


def listed(words: Iterable[str]) -> str:
    """Words in the order in which people look them up."""
    return ", ".join(sorted(words))


def join(path: str, key: str) -> str:
    """The path of ``key`` below ``path``, which is empty for the root."""
    return f"{path}.{key}" if path else key
