"""One job of a sweep as another launcher than ours runs it: a whole `orchestrate`, in a process that it chooses.

Hydra's launchers pickle what they are given to run. Invariant: in whichever process it arrives, what the job needs of
Hydra is registered there before the job is composed.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, read_write

from orchestrator.cli import resolvers, source
from orchestrator.cli.argv import Line
from orchestrator.cli.compose import full_errors
from orchestrator.cli.job import Job, check, claim
from orchestrator.cli.recipes import Recipe
from orchestrator.cli.resolvers import MadeUp
from orchestrator.cli.sweep import launcher

Start = Callable[[Job], int]


class Task:
    """What a launcher is given to run. ``start`` runs a job, and is a function that can be imported by its name.

    ``made`` is what records that names were made up; None where the task has been brought to another process.
    """

    def __init__(self, line: Line, start: Start, made: MadeUp | None) -> None:
        self._line = line
        self._start = start
        self._made = made

    def __reduce__(self) -> tuple[Callable[..., Task], tuple[Line, Start, dict[str, Recipe]]]:
        """As it goes to another process."""
        return _arrived, (self._line, self._start, dict(source.LOADED))

    def __call__(self, _cfg: DictConfig) -> int:
        """Run the job that Hydra has composed; its exit code. Raises a ConfigError, which the launcher brings back."""
        cfg = HydraConfig.instance().cfg.hydra._get_parent()  # type: ignore[union-attr]  # noqa: SLF001
        made = self._made or _register_anew(cfg)
        _part_from_others(cfg)
        return self._start(claim(check(cfg, self._line, made), self._line, made))


def _arrived(line: Line, start: Start, recipes: dict[str, Recipe]) -> Task:
    """The task in another process, where Hydra knows nothing of ours yet."""
    launcher.announce()
    source.register()
    source.LOADED.update(recipes)
    full_errors()
    return Task(line, start, None)


def _register_anew(cfg: DictConfig) -> MadeUp:
    """Our resolvers: what has come here with Hydra's own state are copies, which record for nobody."""
    made = resolvers.register()
    OmegaConf.clear_cache(cfg)
    return made


def _part_from_others(cfg: DictConfig) -> None:
    """Where Slurm starts a job as several agents, they are ranked as it counts them: the value is its first one's.

    That one has the job's directory, and each of the others a directory in it.
    """
    rank = os.environ.get("SLURM_PROCID")
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm" or not rank:
        return
    OmegaConf.update(cfg, "node.rank", int(rank))
    if rank != "0":
        with read_write(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = f"{cfg.hydra.runtime.output_dir}/{rank}"
