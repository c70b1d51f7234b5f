"""One job of a sweep as another launcher than ours runs it: a whole `orchestrate`, in a process that it chooses.

Hydra's launchers pickle what they are given to run. Invariant: in whichever process it arrives, what the job needs of
Hydra is registered there before the job is composed.
"""

from __future__ import annotations

from collections.abc import Callable

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from orchestrator.cli import resolvers, source, sweep_launcher
from orchestrator.cli.argv import Line
from orchestrator.cli.compose import full_errors
from orchestrator.cli.job import Job, check, claim
from orchestrator.cli.resolvers import MadeUp

Start = Callable[[Job], int]


class Task:
    """What a launcher is given to run. ``start`` runs a job, and is a function that can be imported by its name."""

    def __init__(self, line: Line, start: Start, made: MadeUp) -> None:
        self._line = line
        self._start = start
        self._made = made

    def __reduce__(self) -> tuple[Callable[..., Task], tuple[Line, Start]]:
        """As it goes to another process."""
        return _arrived, (self._line, self._start)

    def __call__(self, _cfg: DictConfig) -> int:
        """Run the job that Hydra has composed; its exit code. Raises a ConfigError, which the launcher brings back."""
        cfg = HydraConfig.instance().cfg.hydra._get_parent()  # type: ignore[union-attr]  # noqa: SLF001
        return self._start(claim(check(cfg, self._line, self._made), self._line, self._made))


def _arrived(line: Line, start: Start) -> Task:
    """The task in another process, where Hydra knows nothing of ours yet."""
    sweep_launcher.announce()
    source.register()
    full_errors()
    return Task(line, start, resolvers.register())
