"""Where a recipe's name is looked up: what the command line brings along, then the environment, here, and our own.

A shelf may be a package's, ``pkg://some.package``: it is found without importing anything of it. Invariant: the shelves
are those of the command line that was parsed last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from orchestrator.cli.paths import absolute, data_dir

PACKAGE = "pkg://"
_SEPARATOR = re.compile(rf"{re.escape(os.pathsep)}(?!//)")  # which the one in pkg:// is not
_given: list[str] = []


def bring(places: Iterable[str]) -> None:
    """Look in these as well: in each itself, and before that in its folder ``recipe``, as Hydra does."""
    folders = [folder for place in places if (folder := _folder(place)) is not None]
    _given[:] = [path for folder in folders for path in (str(Path(folder, "recipe")), folder)]


def recipe_dirs() -> list[str]:
    """All directories, the one that is looked in first at the front."""
    listed = filter(None, _SEPARATOR.split(os.environ.get("ORCHESTRATE_RECIPES", "")))
    found = [*_given, *filter(None, map(_folder, (*listed, "recipes")))]
    return list(dict.fromkeys([*found, str(data_dir("recipes"))]))


def files(folder: str) -> Iterable[Path]:
    """All YAML files of one of `recipe_dirs`; of one that may hold anything only those directly in it."""
    path = Path(folder)
    if not path.is_dir():
        return ()
    return path.glob("*.y*ml") if folder in _given[1::2] else path.rglob("*.y*ml")


def _folder(place: str) -> str | None:
    """The directory that is meant; None if a package is not there."""
    return package_dir(place) if place.startswith(PACKAGE) else absolute(place.removeprefix("file://"))


def package_dir(url: str) -> str | None:
    """The directory of ``pkg://some.package/some/folder``; None if there is no such package."""
    name, _, inner = url.removeprefix(PACKAGE).partition("/")
    spec = module_spec(name)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return absolute(str(Path(places[0], inner))) if places else None


def module_spec(name: str) -> ModuleSpec | None:
    """What Python would import as ``name``. The packages above it are looked into, and none is imported."""
    from importlib.util import find_spec  # noqa: PLC0415 - few jobs need a module

    first, *inner = name.split(".")
    try:
        spec = find_spec(first)
        for part in inner:  # by its own name: a dotted one would ask for the parent among what is imported
            places = spec.submodule_search_locations if spec is not None else None
            spec = PathFinder.find_spec(part, places) if places else None
    except (ImportError, ValueError):
        return None
    return spec
