"""Recipes as a Hydra config source, and its place at the front of the search path.

Registered in this process only, so that no top-level ``hydra_plugins`` package is needed. Invariant: whatever a
recipe's first line says, its content belongs to the root of the job and nowhere else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator.cli.paths import shown
from orchestrator.cli.recipes import Recipe, find, listing, load, unspelled
from orchestrator.cli.shelves import recipe_dirs
from orchestrator.errors import ConfigError, Problem

GROUP = "recipe"
LOADED: dict[str, Recipe] = {}
"""The recipes of the composition under way, the most significant first; by config path."""


class RecipeSource(ConfigSource):
    """The group ``recipe``: names in the directories of recipes, and paths."""

    @staticmethod
    def scheme() -> str:
        """What `--info searchpath` shows."""
        return "recipes"

    def load_config(self, config_path: str) -> ConfigResult:
        """A recipe's content, refused with a ConfigError if it is not sound."""
        path = _file(config_path)
        if path is None:
            raise ConfigLoadError(f"Recipe not found: {config_path}")
        recipe = LOADED[config_path] = load(path)
        try:
            config = OmegaConf.create(recipe.data)
        except OmegaConfBaseException as error:
            raise ConfigError(list(_unreadable(recipe)) or [_problem(recipe, "recipe", error)]) from None
        header: dict[str, str | None] = {"package": "_global_"}
        return ConfigResult(provider=self.provider, path=self.full_path(), config=config, header=header)

    def is_group(self, config_path: str) -> bool:
        """Whether recipes, or folders of them, are found under this path."""
        folder = config_path.removeprefix(GROUP).lstrip("/")
        if config_path in ("", GROUP):
            return True
        return config_path.startswith(f"{GROUP}/") and any(Path(base, folder).is_dir() for base in recipe_dirs())

    def is_config(self, config_path: str) -> bool:
        """Whether this path means a recipe."""
        return _file(config_path) is not None

    def available(self) -> bool:
        """Always: recipes can be given by path, whichever directories exist."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """What can be chosen, for help and completion."""
        if config_path == "":
            return [GROUP] if results_filter is not ObjectType.CONFIG else []
        folder = config_path.removeprefix(GROUP).lstrip("/")
        found = list(listing(folder, groups=True)) if results_filter is not ObjectType.CONFIG else []
        if results_filter is not ObjectType.GROUP:
            found += listing(folder, groups=False)
        return sorted(set(found))


class RecipeSearchPath(SearchPathPlugin):
    """Puts recipes at the front of the search path, so that no other source reads one by other rules."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra."""
        search_path.prepend(provider="orchestrator", path=f"recipes://{os.pathsep.join(recipe_dirs())}")


def register() -> None:
    """Make Hydra know both; repeated calls change nothing."""
    plugins = Plugins.instance()
    if RecipeSource not in plugins.discover(ConfigSource):
        plugins.register(RecipeSource)
        plugins.register(RecipeSearchPath)


def _file(config_path: str) -> Path | None:
    if not config_path.startswith(f"{GROUP}/"):
        return None
    return find(unspelled(config_path.removeprefix(f"{GROUP}/")))


def _unreadable(recipe: Recipe) -> Any:  # noqa: ANN401 - an iterator of problems
    """Each text whose interpolation cannot be parsed."""
    for path, text in _texts(recipe.data, ""):
        try:
            OmegaConf.create([text])
        except OmegaConfBaseException as error:
            yield _problem(recipe, path, error)


def _texts(node: object, path: str) -> Any:  # noqa: ANN401 - an iterator of pairs
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _texts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from _texts(value, f"{path}[{at}]")
    elif isinstance(node, str) and "${" in node:
        yield path, node


def _problem(recipe: Recipe, path: str, error: Exception) -> Problem:
    line = recipe.lines.get(path, 1)
    fact = f"has a broken interpolation: {str(error).splitlines()[0]}"
    return Problem(path, fact, "write ${key}, or \\${ for the characters themselves", f"{shown(recipe.path)}:{line}")
