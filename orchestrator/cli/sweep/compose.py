"""Composing the jobs of a sweep: what they have in common once, what differs for each.

Jobs of a sweep mostly differ in values and not in choices. Hydra composes the choices; the values are then laid over a
copy of that, by Hydra's own function. Invariant: what comes out equals what Hydra composes of the same overrides.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_loader_impl import get_overrides_dirname as dirname_of
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override as Parsed
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from orchestrator.cli import source
from orchestrator.cli.recipes import Recipe
from orchestrator.config.schema import GROUPS

_SHOWN = ("help", "hydra_help")  # what no job needs of Hydra's own configuration


class Composer:
    """Composes jobs. ``master`` is the sweep's own configuration, in which the parameters have no values."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._parsed: dict[str, Parsed] = {}
        self._bases: dict[tuple[str, ...], tuple[DictConfig, dict[str, Recipe]]] = {}

    def parse(self, override: str) -> Parsed:
        """An override as Hydra understands it; raises HydraException."""
        found = self._parsed.get(override)
        if found is None:
            found = self._parsed[override] = OverridesParser.create().parse_override(override)
        return found

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one job; raises what Hydra raises. `source.LOADED` has its recipes then."""
        parsed = [self.parse(override) for override in overrides]
        values = [one for one in parsed if self._is_value(one)]
        choices = tuple(text for text, one in zip(overrides, parsed, strict=True) if not self._is_value(one))
        base, recipes = self._base(choices)
        source.LOADED.clear()
        source.LOADED.update(recipes)
        cfg = copy.deepcopy(base)
        ConfigLoaderImpl._apply_overrides_to_config(values, cfg)  # noqa: SLF001 - what Hydra does with them
        own = [one for one in parsed if not one.is_hydra_override()]
        names = cfg.hydra.job.config.override_dirname
        with read_write(cfg.hydra), open_dict(cfg.hydra):
            cfg.hydra.overrides.task = [str(one.input_line) for one in own]
            cfg.hydra.job.override_dirname = dirname_of(
                overrides=own, kv_sep=names.kv_sep, item_sep=names.item_sep, exclude_keys=names.exclude_keys
            )
        return cfg

    def _base(self, choices: tuple[str, ...]) -> tuple[DictConfig, dict[str, Recipe]]:
        if choices not in self._bases:
            source.LOADED.clear()
            cfg = self._loader.load_sweep_config(self._master, list(choices))
            OmegaConf.clear_cache(cfg)  # what is made up, as the name of a run, each job makes up for itself
            with read_write(cfg.hydra), open_dict(cfg.hydra):
                for name in _SHOWN:
                    cfg.hydra.pop(name, None)
            self._bases[choices] = cfg, dict(source.LOADED)
        return self._bases[choices]

    def _is_value(self, override: Parsed) -> bool:
        """Whether it gives a value, and chooses nothing: only then what is chosen does not depend on it."""
        key = override.key_or_group
        if not str(override.input_line).startswith("++") or override.package is not None or "/" in key:
            return False
        is_choice = key in (*GROUPS, "recipe") and not isinstance(override.value(), dict)
        return not is_choice and not override.is_hydra_override()
