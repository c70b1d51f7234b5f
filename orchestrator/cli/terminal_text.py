"""The secrets to keep from a terminal, when there is no job yet whose secrets are known.

Used for messages about configurations and for what Hydra shows. Invariant: whatever was composed so far, in whichever
state it was left, its literal secrets are masked.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from orchestrator.cli.secrets import Secrets

if TYPE_CHECKING:
    from orchestrator.cli.argv import Line


def safe_secrets(line: Line | None = None) -> Secrets:
    """All secrets that can be told from the environment, the words typed, the recipes read and the job composed."""
    words = line.overrides if line is not None else ()
    typed = {override.key.rpartition(".")[2]: override.text.partition("=")[2] for override in words}
    if line is None:
        pairs = (word.partition("=") for word in sys.argv[1:])
        typed = {key.rpartition(".")[2].lstrip("+"): value for key, _, value in pairs}
    return Secrets.of([typed, *_recipes(), _composed()], os.environ)


def _recipes() -> list[Any]:
    source = sys.modules.get("orchestrator.cli.source")
    return [recipe.data for recipe in source.LOADED.values()] if source is not None else []


def _composed() -> Any:  # noqa: ANN401 - YAML holds anything
    """What Hydra composed last, if it got so far; it is looked for only if Hydra was imported at all."""
    if "hydra.core.hydra_config" not in sys.modules:
        return None
    from hydra.core.hydra_config import HydraConfig  # noqa: PLC0415
    from omegaconf import OmegaConf  # noqa: PLC0415

    with contextlib.suppress(Exception):  # half-composed: then it was not shown either
        root = HydraConfig.instance().cfg.hydra._get_parent()  # type: ignore[union-attr]  # noqa: SLF001
        return OmegaConf.to_container(root, resolve=False)
    return None
