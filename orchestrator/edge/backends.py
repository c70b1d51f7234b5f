"""Makes what runs each group's workers: processes of this node, or what the user has named as ``worker.backend``.

What a backend must do is said in `backend`. Invariant: a class that cannot be a backend is a ConfigError before
anything is started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

from orchestrator.core.roles import admitted
from orchestrator.core.specs import GroupSpec, JobSpec
from orchestrator.edge.backend import WorkerBackend
from orchestrator.edge.local_backend import LocalBackend
from orchestrator.edge.plugins import imported, listed, made
from orchestrator.errors import ConfigError, Problem

KEY = "worker.backend"
REMEDY = "give it the methods of orchestrator.WorkerBackend"
METHODS = tuple(name for name in vars(WorkerBackend) if not name.startswith("_"))

Make = Callable[[LocalBackend], WorkerBackend]


def load_backends(job: JobSpec) -> Mapping[str, Make]:
    """How to make the backend of each role that has one of the user's own. Raises ConfigError."""
    return {group.role: _load(job, group) for group in admitted(job.groups, job.node.name) if group.worker.backend}


def _load(job: JobSpec, group: GroupSpec) -> Make:
    name = group.worker.backend or ""
    cls = imported(name, KEY, (), REMEDY)

    def make(local: LocalBackend) -> WorkerBackend:
        backend = made(name, KEY, partial(cls, job, group, local))
        missing = [method for method in METHODS if not callable(getattr(backend, method, None))]
        if missing:
            raise ConfigError([Problem(KEY, f"{name!r} has no {listed(missing)}", REMEDY)])
        return cast("WorkerBackend", backend)

    return make
