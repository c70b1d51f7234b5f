"""Whether what a recipe needs is there: looked up before anything runs, without importing or starting anything.

Invariant: a need that is not met comes with what to do about it, and all of them are one problem.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.shelves import module_spec
from orchestrator.config.needs import NeedKind, RecipeNeed, parse_need
from orchestrator.errors import Problem

PATH = "recipe.needs"


@dataclass(frozen=True, slots=True)
class Met:
    """One need as it is written, and what is missing of it: nothing, or a fact and the remedy."""

    need: str
    fact: str = ""
    remedy: str = ""

    @property
    def met(self) -> bool:
        """Whether it is there."""
        return not self.fact


def looked_up(needs: Iterable[object]) -> list[Met]:
    """Each need of a job; what is no need is left to the configuration's own check."""
    found = []
    for text in needs:
        need = parse_need(text) if isinstance(text, str) else None
        if need is not None:
            found.append(Met(str(text), *_LOOK[need.kind](need)))
    return found


def unmet(needs: Sequence[Met]) -> Problem | None:
    """One problem with everything that is missing and with each remedy; None if all is there."""
    missing = [need for need in needs if not need.met]
    if not missing:
        return None
    packages = [need.remedy for need in missing if need.remedy.startswith(_PIP)]
    others = [need.remedy for need in missing if not need.remedy.startswith(_PIP)]
    pip = [_PIP + " ".join(remedy.removeprefix(_PIP) for remedy in packages)] if packages else []
    remedies = ", ".join([*pip, *others])
    return Problem(PATH, ", ".join(need.fact for need in missing), f"{remedies}; or {PATH}=[] to try without")


def excused(problem: Problem, needs: Iterable[Met]) -> bool:
    """Whether ``problem`` only repeats that a need is not met."""
    for one in needs:
        need = parse_need(one.need)
        if need is None or one.met:
            continue
        variable = need.kind is NeedKind.ENV and problem.fact == f"environment variable {need.name!r} is not set"
        program = need.kind is NeedKind.CMD and problem.fact.startswith(f"{need.name!r} is not found on the PATH")
        if variable or program:
            return True
    return False


def beside(needs: Iterable[object], folder: Path) -> list[object]:
    """``needs`` of a recipe in ``folder``, with each file that stands there as an absolute path."""
    found: list[object] = []
    for text in needs:
        need = parse_need(text) if isinstance(text, str) else None
        if need is not None and need.kind is NeedKind.FILE and Path(folder, need.name).exists():
            found.append(f"{NeedKind.FILE}:{Path(folder, need.name)}")
        else:
            found.append(text)
    return found


def values(needs: Iterable[Met]) -> list[Mapping[str, object]]:
    """The needs as JSON-ready values."""
    return [{"need": one.need, "met": one.met, "remedy": one.remedy or None} for one in needs]


def lines(needs: Iterable[Met]) -> list[str]:
    """A line for each, for a person."""
    return [f"{one.need}: {'met' if one.met else f'{one.fact}; {one.remedy}'}" for one in needs]


_PIP = "pip install "


def _python(need: RecipeNeed) -> tuple[str, str]:
    remedy = _PIP + shlex.quote(need.name + need.versions)
    if need.versions:
        return _version(need, remedy)
    return ("", "") if _importable(need.name) or _distribution(need.name) else (f"{need.name} is not installed", remedy)


def _importable(name: str) -> bool:
    """Whether a module of this name is there."""
    spec = module_spec(name)
    return spec is not None and spec.origin is not None  # a directory that only has the name is no package


def _distribution(name: str) -> str:
    """Its version; empty if it is not installed."""
    from importlib import metadata  # noqa: PLC0415 - 15 ms

    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return ""


def _version(need: RecipeNeed, remedy: str) -> tuple[str, str]:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # noqa: PLC0415 - Hydra brings it

    installed = _distribution(need.name)
    if not installed:
        return f"{need.name} is not installed", remedy
    try:
        fits = SpecifierSet(need.versions).contains(installed, prereleases=True)
    except InvalidSpecifier:
        return f"{need.name}{need.versions} names no version", "write it as pip takes it, such as torch>=2.6"
    return ("", "") if fits else (f"{need.name} is {installed} and not {need.versions}", remedy)


def _file(need: RecipeNeed) -> tuple[str, str]:
    if Path(need.name).expanduser().exists():
        return "", ""
    where = "" if need.name.startswith(("/", "~")) else ", neither here nor beside the recipe"
    return f"{need.name} is not there{where}", f"provide {need.name}"


def _env(need: RecipeNeed) -> tuple[str, str]:
    return ("", "") if os.environ.get(need.name) else (f"{need.name} is not set", f"export {need.name}=VALUE")


def _cmd(need: RecipeNeed) -> tuple[str, str]:
    return ("", "") if shutil.which(need.name) else (f"{need.name} is not on the PATH", f"install {need.name}")


_LOOK = {NeedKind.PYTHON: _python, NeedKind.FILE: _file, NeedKind.ENV: _env, NeedKind.CMD: _cmd}
