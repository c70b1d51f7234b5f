"""What one job of a sweep takes of the machine, from what its section ``sweep`` says and from what it starts.

Invariant: what is not asked for and cannot be guessed is not counted, and never keeps a job waiting.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.config.sweep import SweepConfig
from orchestrator.core.slots import Machine, Need
from orchestrator.core.specs import GroupSpec


def limit(sweep: SweepConfig) -> int | None:
    """How many jobs may run at once; None: as many as there is room for."""
    return None if sweep.jobs == "auto" else int(sweep.jobs)


def need(sweep: SweepConfig, groups: Sequence[GroupSpec], machine: Machine) -> Need:
    """What a job of these groups takes.

    With ``jobs: auto`` that is a processor for each worker, and a GPU as well where the machine has any, unless the
    section says otherwise. With a number of jobs only what the section says is counted.
    """
    workers = sum(group.worker.nproc for group in groups)
    cpus, gpus = sweep.cpus, sweep.gpus
    if sweep.jobs == "auto":
        cpus = min(workers, machine.cpus) if cpus is None else cpus
        gpus = min(workers, len(machine.gpus)) if gpus is None else gpus
    return Need(cpus=cpus or 0, gpus=gpus or 0, memory_mb=sweep.memory_mb or 0)
