"""Recipes: finding one by name or path, and making of its YAML what Hydra composes.

A recipe is a stranger's file. What it may not do (configure Hydra, place itself elsewhere) is refused here, before it
is composed. Invariant: in what `load` returns, every default is an absolute path, a known choice or ``_self_``.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.cli import yaml12
from orchestrator.cli.needs import beside
from orchestrator.cli.paths import SUFFIXES, absolute, shown
from orchestrator.cli.shelves import PACKAGE, files, package_dir, recipe_dirs
from orchestrator.config.report import listed, nearest, show
from orchestrator.config.roles import CHOICES, SECTIONS
from orchestrator.config.schema import GROUPS
from orchestrator.core.specs import Need
from orchestrator.errors import ConfigError, Problem

LEFT_TO_YOU = "${orchestrate.left_to_you:}"  # what ??? becomes: OmegaConf merges its own mark away
MAX_ROLES = 64
_PLUGINS = ("hydra/launcher", "hydra/sweeper")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One file, ready to be composed."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[str, int]
    chosen: frozenset[str] = frozenset()  # the groups whose kind it names
    bases: tuple[Path, ...] = ()  # the files that it builds on
    needs: Mapping[object, str] = field(default_factory=dict)  # each need, and its file and line


def find(name: str, beside: Path | None = None) -> Path | None:
    """The file that ``name`` means: a path as it is written, also in a package, or a name on the shelves."""
    if name.startswith(PACKAGE):
        package, _, inner = name.removeprefix(PACKAGE).partition("/")
        folder = package_dir(PACKAGE + package)
        return find(f"{folder}/{inner}") if folder is not None and inner else None
    folders = [""] if is_path(name) else recipe_dirs()
    if beside is not None:
        folders = [str(beside), *(() if is_path(name) else folders)]
    elif name.endswith(SUFFIXES) and not is_path(name):
        folders.append("")  # mine.yaml means ./mine.yaml when no recipe has that name
    for folder in folders:
        for suffix in ("", *SUFFIXES) if name.endswith(SUFFIXES) else SUFFIXES:
            path = Path(absolute(str(Path(folder, name + suffix))))
            if path.is_file():
                return path
    return None


def is_path(name: str) -> bool:
    """Whether ``name`` is written as a path, and not as a name."""
    return name.startswith(("/", "./", "../"))


def names() -> list[str]:
    """The names of all recipes that can be found, nested ones with their folder; none that begin with _ or a dot."""
    found = set()
    for folder in recipe_dirs():
        for path in files(folder):
            name = path.relative_to(folder)
            if path.suffix in SUFFIXES and not any(map(_is_hidden, name.parts)):
                found.add(name.with_suffix("").as_posix())
    return sorted(found)


def _is_hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def missing(name: str, path: str = "recipe", origin: str = "") -> Problem:
    """That there is no such recipe, and what there is."""
    known = names()
    remedy = f"{nearest(name, known)}known: {listed(known)}, or a path such as ./mine.yaml"
    return Problem(path, f"{show(name)} is not found", remedy, origin)


def load(path: Path) -> Recipe:
    """Read and prepare the recipe in ``path``; a ConfigError names everything that is wrong with its form."""
    where = shown(path)
    try:
        text = _bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError([Problem("recipe", f"cannot be read: {error.strerror}", "", where)]) from None
    except UnicodeDecodeError as error:
        fact = f"is not UTF-8 text: {error.reason} at byte {error.start}"
        raise ConfigError([Problem("recipe", fact, "save it as UTF-8", where)]) from None
    document = yaml12.read(text, where)
    if not isinstance(document.data, dict):
        fact = f"is {show(document.data)}, and not a mapping"
        raise ConfigError([Problem("recipe", fact, "begin with a key such as worker:", f"{where}:1")])
    return _Preparation(path, document).recipe()


def _bytes(path: Path) -> bytes:
    """What is in a file, and never more than is allowed: some of /proc have no size, some never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(yaml12.MAX_BYTES + 1)  # one too many is too large, which is said by who reads it


@dataclass(slots=True)
class _Preparation:
    """The steps from a file's data to what Hydra composes, and what went wrong in them."""

    path: Path
    document: yaml12.Document
    problems: list[Problem] = field(default_factory=list)
    bases: list[Any] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    overrides: dict[str, str] = field(default_factory=dict)  # group -> choice

    def recipe(self) -> Recipe:
        data = dict(self.document.data)
        if "hydra" in data:
            self._problem("hydra", "is not for recipes", "give it on the command line, as in hydra.run.dir=…")
        self._defaults(data.pop("defaults", None))
        for group in GROUPS:
            self._choose(group, data)
        roles = data.get("roles")
        if isinstance(roles, dict) and len(roles) > MAX_ROLES:  # each is composed as a whole job
            self._problem("roles", f"are {len(roles)}", f"allowed: up to {MAX_ROLES}")
        elif isinstance(roles, dict):
            data["roles"] = {name: _role(entry) for name, entry in roles.items()}
        elif isinstance(roles, list):  # which cannot even be composed
            self._problem("roles", f"{show(roles)} is not a mapping", "write NAME: {…} for each, or {} for none")
        for name in [name for name in ("node", "worker", "sweep", "recipe") if name in data and data[name] is None]:
            del data[name]  # an empty section says nothing
        needs = self._header(data)
        if self.problems:
            raise ConfigError(self.problems)
        own = [] if "_self_" in self.bases else ["_self_"]
        chosen = [{f"override /{group}": value} for group, value in self.overrides.items()]
        composed = {"defaults": [*self.bases, *own, *chosen], **data}
        composed = {key: _marked(value) for key, value in composed.items()}
        return Recipe(self.path, composed, self.document.lines, frozenset(self.overrides), tuple(self.files), needs)

    def _problem(self, path: str, fact: str, remedy: str) -> None:
        self.problems.append(Problem(path, fact, remedy, self._at(path, path.partition("[")[0])))

    def _at(self, path: str, above: str) -> str:
        line = self.document.lines.get(path) or self.document.lines.get(above, 1)
        return f"{shown(self.path)}:{line}"

    def _choose(self, group: str, data: dict[str, Any]) -> None:
        """``restart: never`` and ``restart: {kind: never}`` become a choice, which the command line can overrule."""
        if group not in data:
            return
        value = data.pop(group)
        if isinstance(value, str):
            value = {"kind": value}
        if isinstance(value, dict) and value.get("kind") in GROUPS[group]:
            value = dict(value)
            self.overrides[group] = value.pop("kind")
        if value is not None and value != {}:
            data[group] = value

    def _header(self, data: dict[str, Any]) -> dict[object, str]:
        header = data.get("recipe")
        if isinstance(header, dict):  # headers do not merge: what this one leaves out is not another recipe's
            data["recipe"] = header = {"name": self.path.stem, "description": None, "needs": [], **header}
        roles = data.get("roles")
        if any(map(_has_command, [data, *(roles.values() if isinstance(roles, dict) else ())])) and (
            header is None or isinstance(header, dict)
        ):
            data["recipe"] = {**(header or {}), "dir": str(self.path.parent).replace("${", "\\${")}
        needs = header.get("needs") if isinstance(header, dict) else None
        listed = needs if isinstance(needs, list) else [needs] if isinstance(needs, str) else []
        return {
            need if isinstance(need, str) else str(need): self._at(f"recipe.needs[{at}]", "recipe.needs")
            for at, need in enumerate(beside(listed, self.path.parent))
        }

    def _defaults(self, entries: object) -> None:
        if entries is None:
            return
        if not isinstance(entries, list):
            self._problem("defaults", f"{show(entries)} is not a list", "write - base, one line for each")
            return
        for at, entry in enumerate(entries):
            where = f"defaults[{at}]"
            if isinstance(entry, str):
                self._base(entry, where)
            elif isinstance(entry, dict) and len(entry) == 1:
                self._group(*next(iter(entry.items())), where)
            else:
                self._problem(where, f"{show(entry)} is no default", "write - base, or - override /group: choice")

    def _group(self, key: str, value: object, where: str) -> None:
        group = key.rpartition(" ")[2].lstrip("/")
        if group in GROUPS and isinstance(value, str) and value in GROUPS[group]:
            self.overrides[group] = value
        elif group in GROUPS:
            known = GROUPS[group]
            self._problem(where, f"{show(value)} is not a choice", f"{nearest(value, known)}allowed: {listed(known)}")
        elif group == "recipe":
            for name in value if isinstance(value, list) else [value]:
                self._base(str(name), where)
        elif group in _PLUGINS and isinstance(value, str) and re.fullmatch(r"\w+", value):
            self.overrides[group] = value
        else:
            allowed = listed([*GROUPS, *_PLUGINS])
            self._problem(where, f"{show(group)} is not a recipe's to choose", f"allowed: {allowed}")

    def _base(self, name: str, where: str) -> None:
        """A recipe that this one builds on, looked up beside it first."""
        if name == "_self_":
            self.bases.append(name)
            return
        name = name.removeprefix("/recipe/")
        if name.startswith(("/", PACKAGE)) or self._leads_out(name):
            self._problem(where, f"{show(name)} leads out of this recipe's folder", "write a name, or a path below it")
            return
        found = None if "${" in name else find(name, beside=self.path.parent)
        if found is None:
            fact = f"{show(name)} is neither beside this recipe nor a known one"
            self._problem(where, fact, f"{nearest(name, names())}write its name or path")
        else:
            self.files.append(found)
            self.bases.append(f"/recipe/{spelled(str(found))}")

    def _leads_out(self, name: str) -> bool:
        """Whether ``name`` goes up to where neither this recipe nor any other by name can be."""
        path = Path(absolute(str(self.path.parent / name)))
        return not any(path.is_relative_to(folder) for folder in (str(self.path.parent), *recipe_dirs()))


def _has_command(data: object) -> bool:
    worker = data.get("worker") if isinstance(data, dict) else None
    return isinstance(worker, dict) and worker.get("cmd") is not None


def _role(entry: Any) -> Any:  # noqa: ANN401 - YAML holds anything
    """A role with its short forms made long, so that the command line can change a part of them."""
    if not isinstance(entry, dict):
        return entry
    found = {name: value for name, value in entry.items() if name not in SECTIONS or value is not None}
    for name, value in found.items():
        if name in CHOICES and isinstance(value, str):
            found[name] = {"kind": value}
        elif name == "depends_on" and isinstance(value, list) and all(isinstance(one, str) for one in value):
            found[name] = dict.fromkeys(value, str(Need.STARTED))
    return found


def _marked(node: Any) -> Any:  # noqa: ANN401 - YAML holds anything
    """``node`` with each ``???``, which leaves a value to the command line, made into what is noticed if it stays."""
    if isinstance(node, dict):
        return {key: _marked(value) for key, value in node.items()}
    return LEFT_TO_YOU if node == "???" else node


def spelled(path: str) -> str:
    """A path without the characters that Hydra's defaults list gives a meaning; `unspelled` undoes it."""
    return re.sub(r"[%@$]", lambda found: f"%{ord(found[0]):02x}", path)


def unspelled(path: str) -> str:
    """The path again."""
    return re.sub(r"%(25|40|24)", lambda found: chr(int(found[1], 16)), path)


def listing(folder: str, *, groups: bool) -> Iterator[str]:
    """The recipes, or the folders of recipes, directly in ``folder`` of any directory of recipes."""
    for base in map(Path, recipe_dirs()):
        for path in sorted((base / folder).glob("*")) if (base / folder).is_dir() else ():
            if _is_hidden(path.name):
                continue
            if groups and path.is_dir() and any(path.glob("*.yaml")):
                yield path.name
            elif not groups and path.suffix in SUFFIXES:
                yield path.stem
