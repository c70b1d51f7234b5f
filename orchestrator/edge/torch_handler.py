"""This rendezvous for an unchanged torchrun: ``--rdzv-backend=orchestrator --rdzv-endpoint=HOST:6379 --rdzv-id=ID``.

torch loads it through the entry point group ``torchrun.handlers``; only this and `torch_store` import torch. Workers
stay torchrun's: here their agents meet, notice who is gone, and get a store. Invariant: the workers' store is new in
every round, on the port that rank 0's agent held for it, and so is what agents tell each other: no key of an earlier
attempt is ever read again.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from orchestrator.core.policies import Backoff, Budget, RestartKind, RestartPolicy, StopPolicy
from orchestrator.core.rendezvous import Seat
from orchestrator.core.specs import (
    GroupSpec,
    JobSpec,
    LogsKind,
    LogsSpec,
    NodeSpec,
    RendezvousKind,
    RendezvousSpec,
    WorkerSpec,
)
from orchestrator.core.words import Outcome
from orchestrator.edge.background import BackgroundMembership, RunClosed
from orchestrator.edge.redis.worker_store import Store as Shared
from orchestrator.edge.torch_store import AgentStore
from orchestrator.errors import RendezvousError, RoundEnded

BACKEND = "orchestrator"
DEFAULT_PORT = 6379
ROLE = "torchrun"  # its rounds are not those of an orchestrator's own group in the same run
STORE_TIMEOUT_S = 60.0  # of the agents' own reads, as with torch's c10d backend
_ALWAYS_THERE = frozenset({"timeout"})  # torchrun adds it by itself; its other backends do not heed it either

log = logging.getLogger(__name__)
_numbers = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What ``--rdzv-conf`` may say."""

    lease: float = 5.0  # seconds until a silent agent counts as gone
    last_call_timeout: float = 1.0  # seconds of quiet before fewer than MAX settle, or newcomers interrupt a round
    join_timeout: float = 600.0  # seconds until a round must have come together
    password: str = ""  # better: REDIS_PASSWORD in the environment, which no process list shows
    username: str = ""
    db: int = 0
    tls: bool = False

    @classmethod
    def of(cls, params: RendezvousParameters) -> Options:
        """The options in ``params``; a ValueError names what is not known, or cannot be."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(params.config) - set(known) - _ALWAYS_THERE)
        if unknown:
            raise ValueError(f"--rdzv-conf: unknown key {', '.join(unknown)}; known are {', '.join(known)}")
        given: dict[str, Any] = {name: params.config[name] for name in known if name in params.config}
        for name in {"lease", "last_call_timeout", "join_timeout"} & set(given):
            given[name] = _seconds(name, given[name])
        if "tls" in given:
            given["tls"] = params.get_as_bool("tls")
        if "db" in given:
            given["db"] = params.get_as_int("db")
        return cls(**{"password": os.environ.get("REDIS_PASSWORD", ""), **given})


def _seconds(name: str, value: object) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf") or (name != "last_call_timeout" and seconds == 0):
        raise ValueError(f"--rdzv-conf: {name}={value} is no number of seconds")
    return seconds


def factory() -> Callable[[RendezvousParameters], RendezvousHandler]:
    """What the entry point names: returns the maker of handlers."""
    return create


def create(params: RendezvousParameters) -> Handler:
    """A handler; nothing is sent before its first rendezvous."""
    options = Options.of(params)
    if params.run_id in ("", "none"):
        raise ValueError("--rdzv-id: give this run an id of its own; a server remembers a run for a day after its end")
    host, port = parse_rendezvous_endpoint(params.endpoint, DEFAULT_PORT)
    who = f"{quote(options.username, safe='')}:{quote(options.password, safe='')}@" if options.password else ""
    at = f"[{host}]" if ":" in host else host
    url = f"{'rediss' if options.tls else 'redis'}://{who}{at}:{port}/{options.db}"
    name = f"{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
    membership = BackgroundMembership(_job(params, options, name), url, secrets.token_hex(8), log.warning)
    return Handler(params.run_id, membership, url)


def _job(params: RendezvousParameters, options: Options, name: str) -> JobSpec:
    """The part of a job that a rendezvous needs. How often to restart is for torchrun to say, so nothing is bounded."""
    unbounded = Budget(max=None)
    backoff = Backoff(initial_s=0, factor=1, max_s=0, jitter=0, reset_after_s=0)
    group = GroupSpec(
        role=ROLE,
        min_nodes=params.min_nodes,
        max_nodes=params.max_nodes,
        worker=WorkerSpec(cmd=(), nproc=1),
        restart=RestartPolicy(kind=RestartKind.ON_FAILURE, budget=unbounded, free=unbounded, backoff=backoff),
    )
    rendezvous = RendezvousSpec(
        kind=RendezvousKind.REDIS,
        join_timeout_s=options.join_timeout,
        last_call_s=options.last_call_timeout,
        lease_s=options.lease,
        scale_up_s=options.last_call_timeout,
        server_grace_s=600,
    )
    return JobSpec(
        run_id=params.run_id,
        run_dir="",
        node=NodeSpec(name=name, addr=params.local_addr),
        groups=(group,),
        rendezvous=rendezvous,
        stop=StopPolicy(signal=15, grace_s=0, kill_wait_s=0),
        logs=LogsSpec(kind=LogsKind.INHERIT, dir="", prefix=""),
    )


class Handler(RendezvousHandler):  # type: ignore[misc]  # torch is not type-checked with us
    """One torchrun agent's rendezvous."""

    def __init__(self, run_id: str, membership: BackgroundMembership, url: str) -> None:
        self._run_id = run_id
        self._membership = membership
        self._url = url
        self._hosted: TCPStore | None = None  # by the agent of rank 0; it ends with the last reference to it
        self._shared: Shared | None = None  # what the agents of this round tell each other

    def get_backend(self) -> str:
        """The name that torchrun knows us by."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """The workers' store is hosted by the agent of rank 0, and outlives any of them."""
        return True

    def get_run_id(self) -> str:
        """What ``--rdzv-id`` said."""
        return self._run_id

    def next_rendezvous(self) -> RendezvousInfo:
        """Take part in the next round; our last one is over for everyone, if it was not yet."""
        while True:
            self._part()
            seat = self._seat()
            if self._meet(seat) and self._shared is not None:
                break
            log.warning("round %d ended before its agents had met; joining the next", seat.round)
        log.info("round %d (%s): agent %d of %d", seat.round, seat.why, seat.slot, seat.size)
        store = AgentStore(self._shared, STORE_TIMEOUT_S)
        return RendezvousInfo(store, seat.slot, seat.size, RendezvousStoreInfo(seat.master_addr, seat.master_port))

    def _seat(self) -> Seat:
        try:
            return self._membership.join()
        except RunClosed as end:
            raise RendezvousClosedError(
                f"run {self._run_id} is closed ({end}); give a new run another --rdzv-id"
            ) from end
        except RendezvousError as error:
            kind = RendezvousTimeoutError if isinstance(error.__cause__, TimeoutError) else RendezvousConnectionError
            raise kind(str(error)) from error

    def _meet(self, seat: Seat) -> bool:
        """Host the workers' store, if that is ours to do, and wait until all members are here.

        False if the round has ended meanwhile: a member that joined and died before it came here costs no more than its
        lease.
        """
        self._shared = Shared(
            self._url,
            run_id=self._run_id,
            group=ROLE,
            round=seat.round,
            token=seat.token,
            rank=seat.slot,
            world_size=seat.size,
        )
        try:
            if seat.slot == 0:
                patience = timedelta(seconds=STORE_TIMEOUT_S)
                self._hosted = TCPStore(
                    seat.master_addr, seat.master_port, None, True, patience, wait_for_workers=False
                )
            self._shared.barrier("rendezvous", STORE_TIMEOUT_S)
        except RoundEnded:
            return False
        except TimeoutError as error:
            raise RendezvousTimeoutError(str(error)) from error
        except (RuntimeError, RendezvousError) as error:  # torch's DistError is a RuntimeError
            raise RendezvousConnectionError(str(error)) from error
        return True

    def _part(self) -> None:
        """Give up what belongs to the last round."""
        self._hosted = None
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def _over(self) -> bool:
        try:
            return self._membership.over
        except RendezvousError as error:
            raise RendezvousConnectionError(str(error)) from error

    def num_nodes_waiting(self) -> int:
        """Positive once our round is over, for whatever reason: a member is gone, or newcomers may come in."""
        return int(self._over())

    def is_closed(self) -> bool:
        """Whether the run is over, for all."""
        return self._membership.ending is not None

    def set_closed(self) -> None:
        """End the run, for all."""
        try:
            self._membership.close(Outcome.STOPPED, "closed by torchrun")
        except RendezvousError as error:
            raise RendezvousConnectionError(str(error)) from error

    def shutdown(self) -> bool:
        """Leave. After success the run is closed; after a failure it stays open for others, and for our return.

        torchrun calls this with the failure in flight, if there is one.
        """
        failure = sys.exc_info()[1]
        try:
            if failure is None:
                self._membership.succeed(STORE_TIMEOUT_S)
        except RendezvousError as error:
            log.warning("the run could not be closed: %s", error)
            return False
        finally:
            self._membership.leave("its workers succeeded" if failure is None else type(failure).__name__)
            self._part()
        return True
