"""Zygotes as the agent sees them: what one for a group's workers is, and which of them the guard knows.

How a worker comes from one is the guard's business. Invariant: the guard is told of a zygote before a worker is asked
of it, and of none twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from orchestrator.core.python import split
from orchestrator.core.ranks import shared_variables
from orchestrator.core.specs import WorkerSpec
from orchestrator.edge.backend import Zygote
from orchestrator.edge.guard.client import GuardClient, ZygoteFailed


def zygote_for(spec: WorkerSpec, argv: Sequence[str], env: Mapping[str, str], log: str | None) -> Zygote | str:
    """The one for these workers, one of which has this command and environment; or why there can be none."""
    found = split(spec.cmd)
    if found is None:
        return f"{spec.cmd[0]} runs no Python script and no module by -m, as far as worker.cmd shows"
    own, named = found
    head = spec.cmd[: own + named]
    if tuple(argv[: len(head)]) != head:
        return f"{' '.join(head)} is another program for each worker"
    return Zygote(
        python=head[:own],
        runs=head[own:],
        preload=spec.preload or (),
        env=shared_variables(env, spec),
        cwd=spec.cwd,
        log=log,
        umask=spec.umask,
        limits=spec.limits,
        cpus=frozenset[int]().union(*spec.affinity),
    )


class ZygoteBook:
    """The zygotes that one guard knows."""

    def __init__(self, new_handle: Callable[[], int]) -> None:
        self._new_handle = new_handle
        self._handles: dict[Zygote, int] = {}

    def handle_of(self, zygote: Zygote, guard: GuardClient) -> int:
        """By which number the guard knows it, from now on."""
        if zygote not in self._handles:
            handle = self._handles[zygote] = self._new_handle()
            guard.zygote(handle, **{field: getattr(zygote, field) for field in Zygote.__slots__})
        return self._handles[zygote]

    def dismiss(self, zygote: Zygote, guard: GuardClient) -> None:
        """No process will be asked of it any more."""
        if zygote in self._handles:
            guard.dismiss(self._handles.pop(zygote))

    def failed(self, event: ZygoteFailed) -> None:
        """If it has served before, the next workers may have another one; else that would fail as well."""
        if event.ready:
            self._handles = {known: handle for known, handle in self._handles.items() if handle != event.handle}

    def clear(self) -> None:
        """The guard is gone, and all of them with it."""
        self._handles.clear()
