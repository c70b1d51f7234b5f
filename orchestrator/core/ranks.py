"""From a seat to what each worker sees: ranks, torchrun's variables, and the macros in its command.

Spellings are torchrun's (torch 2.13, `SubprocessContext` environment); ours begin with ORCHESTRATOR_.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template

from orchestrator.core.policies import WatchdogKind
from orchestrator.core.rendezvous import Seat
from orchestrator.core.specs import GroupSpec, JobSpec, Macros, StoreKind, WorkerSpec

_DEVICES = "CUDA_VISIBLE_DEVICES"
_BEATS, _STACKS = "ORCHESTRATOR_WATCHDOG_FILE", "ORCHESTRATOR_STACKS_FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one worker stands in one round."""

    rank: int
    local_rank: int
    local_world_size: int
    seat: Seat


def places(seat: Seat, nproc: int) -> tuple[Place, ...]:
    """The places of a node's workers, by local rank."""
    return tuple(
        Place(rank=seat.base_rank + local, local_rank=local, local_world_size=nproc, seat=seat)
        for local in range(nproc)
    )


def rank_variables(place: Place, group: GroupSpec) -> dict[str, str]:
    """torchrun's rank variables. A group's ranks count within its role, so the ROLE_ ones equal the plain ones."""
    seat = place.seat
    kind = group.worker.store
    master = {"MASTER_ADDR": seat.master_addr, "MASTER_PORT": str(seat.master_port)}
    return {
        "RANK": str(place.rank),
        "LOCAL_RANK": str(place.local_rank),
        "GROUP_RANK": str(seat.slot),
        "ROLE_RANK": str(place.rank),
        "ROLE_NAME": group.role,
        "WORLD_SIZE": str(seat.world_size),
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "GROUP_WORLD_SIZE": str(seat.size),
        "ROLE_WORLD_SIZE": str(seat.world_size),
        "TORCHELASTIC_USE_AGENT_STORE": str(kind is StoreKind.AGENT),
        **(master if kind is not StoreKind.NONE else {}),
    }


def worker_env(
    job: JobSpec,
    group: GroupSpec,
    place: Place,
    inherited: Mapping[str, str],
    *,
    error_file: str,
    result_file: str,
    store: str,
    watchdog: str | None = None,
    stacks_file: str = "",
    incarnation: int = 0,
) -> dict[str, str]:
    """The complete environment of one worker: inherited, then what the launcher says, then ``worker.env``.

    ``store`` is the server's URL with credentials, for what workers share; ``watchdog`` is the pipe that it listens on,
    if there is one.
    """
    seat, budget = place.seat, group.restart.budget.max
    env = dict(inherited)
    if place.local_world_size > 1:
        env.setdefault("OMP_NUM_THREADS", "1")  # as torchrun: N workers with N threads each would thrash
    env.setdefault("PYTHONUNBUFFERED", "1")  # what torchrun's `python -u` does, for any command line
    env.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    env |= rank_variables(place, group)
    env |= {
        "TORCHELASTIC_RESTART_COUNT": str(seat.charged),
        "TORCHELASTIC_MAX_RESTARTS": str(0 if budget is None else budget),
        "TORCHELASTIC_RUN_ID": job.run_id,
        "TORCHELASTIC_ERROR_FILE": error_file,
        "ORCHESTRATOR_RUN_ID": job.run_id,
        "ORCHESTRATOR_GROUP": group.role,
        "ORCHESTRATOR_ROUND": str(seat.round),
        "ORCHESTRATOR_TOKEN": str(seat.token),
        "ORCHESTRATOR_INCARNATION": str(incarnation),
        "ORCHESTRATOR_RESULT_FILE": result_file,
        "ORCHESTRATOR_STORE": store,
    }
    for name in (_BEATS, _STACKS):  # of an orchestrator that we run under: our workers are none of its
        env.pop(name, None)
    if watchdog is not None:
        env |= {_BEATS: watchdog, _STACKS: stacks_file}
        if group.watchdog.kind is WatchdogKind.TIMER:
            env["TORCHELASTIC_TIMER_FILE"] = watchdog
    if group.worker.virtual_local_rank:
        env |= {"LOCAL_RANK": "0", _DEVICES: _device(place, env.get(_DEVICES))}
    return _overlaid(env, group.worker.env)


def _device(place: Place, visible: str | None) -> str:
    """The one device of a worker that is to see no other, as torchrun counts them."""
    devices = visible.split(",") if visible is not None else []
    return devices[place.local_rank].strip() if place.local_rank < len(devices) else str(place.local_rank)


_OF_ONE = frozenset(
    {
        "RANK",
        "LOCAL_RANK",
        "GROUP_RANK",
        "ROLE_RANK",
        "WORLD_SIZE",
        "GROUP_WORLD_SIZE",
        "ROLE_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "TORCHELASTIC_RESTART_COUNT",
        "TORCHELASTIC_ERROR_FILE",
        "ORCHESTRATOR_ROUND",
        "ORCHESTRATOR_TOKEN",
        "ORCHESTRATOR_INCARNATION",
        "ORCHESTRATOR_RESULT_FILE",
        _STACKS,
    }
)


def shared_variables(env: Mapping[str, str], spec: WorkerSpec) -> dict[str, str]:
    """What of a worker's environment others of its group, and those of later rounds, have too."""
    own = {*_OF_ONE, _DEVICES} if spec.virtual_local_rank else _OF_ONE
    return {name: value for name, value in env.items() if name not in own}


def _overlaid(env: Mapping[str, str], own: Mapping[str, str | None]) -> dict[str, str]:
    """``env`` with what a job says of its own; None unsets a variable."""
    both = {**env, **own}
    return {name: value for name, value in both.items() if value is not None}


_MACRO = re.compile(r"__(rank|local_rank|world_size|local_world_size|node_rank|nnodes|round|run_id|role)__")


def fill_in(cmd: Sequence[str], job: JobSpec, group: GroupSpec, place: Place) -> list[str]:
    """The worker's argv: macros such as ``__rank__`` filled in, all other text untouched."""
    if group.worker.macros is not Macros.OWN:
        filled = group.worker.macros is Macros.TORCHRUN
        return [_as_torchrun(argument, place) if filled and at else argument for at, argument in enumerate(cmd)]
    seat = place.seat
    values = {
        "rank": place.rank,
        "local_rank": place.local_rank,
        "world_size": seat.world_size,
        "local_world_size": place.local_world_size,
        "node_rank": seat.slot,
        "nnodes": seat.size,
        "round": seat.round,
        "run_id": job.run_id,
        "role": group.role,
    }
    return [_MACRO.sub(lambda found: str(values[found[1]]), argument) for argument in cmd]


def _as_torchrun(argument: str, place: Place) -> str:
    """``argument`` as torchrun 2.13 fills it in: by `string.Template`, to which ``$$`` is a dollar sign."""
    return Template(argument).safe_substitute(local_rank=str(place.local_rank))
