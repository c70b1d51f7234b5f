"""``hydra/launcher=parallel``: how Hydra's sweepers have their jobs run by us.

A sweeper asks for batches and waits for each; what is done with one is `session`'s. Invariant: a failed job is a
failed job to the sweeper, and never the end of the sweep.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from orchestrator.core.sweep import JobState, SweepJob

_MODULE = "hydra_plugins.orchestrator"  # where Hydra looks for plugins; conf/hydra/launcher/parallel.yaml names it
_GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class JobFailed(Exception):
    """What a sweeper sees of a job that has failed."""


class Session(Protocol):
    """Who runs the jobs."""

    def begin(self, context: HydraContext, config: DictConfig, launcher: Launcher | None) -> None:
        """The sweep's own configuration is known; ``launcher`` is another one that shall run its jobs."""

    def launch(self, batch: Sequence[Sequence[str]], first: int) -> list[SweepJob]:
        """Run jobs to their ends; how each has ended, in their order."""


class _Current:
    """The sweep of this process, which Hydra cannot hand on."""

    session: Session | None = None


@dataclass
class Ended(JobReturn):
    """A job's end, which says nothing by itself when it is looked at."""

    @property  # type: ignore[misc]  # of which only the getter is ever used
    def return_value(self) -> Any:  # noqa: ANN401 - Hydra's protocol
        """The value of the objective; raises `JobFailed`."""
        if self.status is JobStatus.FAILED:
            raise JobFailed(self._return_value)
        return self._return_value


class ParallelLauncher(Launcher):
    """Runs the jobs of `orchestrate -m`, or has ``other`` run them."""

    def __init__(self, other: Launcher | None = None) -> None:
        self._other = other

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by the sweeper, once."""
        del task_function  # it runs one job in this process; ours run side by side
        if _Current.session is None:
            raise RuntimeError("hydra/launcher=parallel is for orchestrate")
        self._session = _Current.session
        self._session.begin(hydra_context, config, self._other)
        self._lenient = config.hydra.sweeper.get("_target_") == _GRID  # it would end at the first failure
        logging.getLogger("optuna").setLevel(logging.WARNING)  # it sets its own when it is imported
        logging.getLogger("hydra_plugins.hydra_optuna_sweeper").setLevel(logging.ERROR)  # failures are told already
        Sweeper.validate_batch_is_legal = _is_legal  # type: ignore[method-assign, assignment]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by the sweeper for each batch."""
        jobs = self._session.launch(job_overrides, initial_job_idx)
        return [self._ended(overrides, job) for overrides, job in zip(job_overrides, jobs, strict=True)]

    def _ended(self, overrides: Sequence[str], job: SweepJob) -> JobReturn:
        if job.state in (JobState.SUCCEEDED, JobState.PRUNED) or self._lenient:
            return Ended(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=job.value)
        return Ended(overrides=list(overrides), status=JobStatus.FAILED, _return_value=job.message)


def _is_legal(_sweeper: Sweeper, _batch: Sequence[Sequence[str]]) -> None:
    """Whether a batch can be composed; `launch` composes all of it before it starts any, and needs no rehearsal."""


def _teach_optuna() -> None:
    """Have hydra-optuna-sweeper, if it is there, do as the section ``sweep`` says.

    With a seed, its trials are the same again, and those that were done before answer at once.
    """
    store = ConfigStore.instance()
    found = store.repo.get("hydra", {}).get("sweeper", {})
    if "optuna.yaml" not in found:
        return
    node = found["optuna.yaml"].node
    node.n_jobs = "${orchestrate.at_once:${sweep.jobs}}"
    node.direction = "${sweep.direction}"
    node.max_failure_rate = 1.0
    for sampler in found.get("sampler", {}).values():
        if "seed" in sampler.node:
            sampler.node.seed = 0


def register(session: Session) -> None:
    """Make Hydra know the launcher, and the launcher its sweep."""
    _Current.session = session
    Plugins.instantiate_launcher = _instantiate  # type: ignore[method-assign, assignment]
    announce()


def announce() -> None:
    """Make Hydra know the launcher."""
    ParallelLauncher.__module__ = _MODULE
    plugins = Plugins.instance()  # which scans `hydra_plugins` when it is made, if any is installed
    sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    sys.modules[_MODULE] = sys.modules[announce.__module__]
    plugins.register(ParallelLauncher)
    _teach_optuna()


_hydras_own = Plugins.instantiate_launcher


def _instantiate(
    plugins: Plugins, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
) -> Launcher:
    """The launcher for a sweeper: ours, which uses another one if that is what the configuration names."""
    launcher = _hydras_own(plugins, hydra_context, task_function, config)
    if not isinstance(launcher, ParallelLauncher):
        launcher = ParallelLauncher(launcher)
        launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)
    return launcher
