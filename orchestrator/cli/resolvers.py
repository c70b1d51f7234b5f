"""Values that are made up when nobody gave them: the run's id and this node's name.

Both are OmegaConf resolvers that conf/config.yaml calls in sight, and both are cached, so that one job sees one value.
Invariant: composing takes no lock and writes nothing. Only `claim_number`, called when a run begins, does.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import socket
import tempfile
import time
from pathlib import Path

from orchestrator.errors import NodeError

_MOST = 1_000  # agents of one run on one host and user
_held: list[int] = []  # descriptors of locks, kept until the process ends
_taken: list[int] = []


class MadeUp:
    """What was made up so far; a sweep makes up several."""

    def __init__(self) -> None:
        self.run_ids: set[str] = set()
        self.node_names: set[str] = set()
        self.number = 0  # of this agent among those of its run on this host

    def resolve_run_id(self, job: str | None = None, step: str | None = None) -> str:
        """JOBID.STEPID on Slurm; else a new one that sorts by time and that nobody else makes up."""
        if job and step:
            return f"{job}.{step}"
        run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        self.run_ids.add(run_id)
        return run_id

    def resolve_node_name(self, _run_id: str | None = None) -> str:
        """The host's name and a number."""
        name = f"{host_name()}.{self.number}"
        self.node_names.add(name)
        return name


def host_name() -> str:
    """This host's short name, in the letters that a node's name may have."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:50] or "host"


def register() -> MadeUp:
    """Make our resolvers known to OmegaConf; what they make up is recorded in what this returns."""
    from omegaconf import OmegaConf  # noqa: PLC0415 - costs 90 ms, and `orchestratectl status` needs none of it

    from orchestrator.cli import bounds  # noqa: PLC0415 - as above

    bounds.install()
    bounds.begin()
    made = MadeUp()
    register = OmegaConf.register_new_resolver
    register("orchestrate.run_id", made.resolve_run_id, use_cache=True, replace=True)
    register("orchestrate.node_name", made.resolve_node_name, use_cache=True, replace=True)
    register("orchestrate.if_set", _if_set, replace=True)
    register("orchestrate.watchdog", _watchdog, replace=True)
    register("orchestrate.left_to_you", _left_to_you, replace=True)
    register("orchestrate.keys", _keys, replace=True)
    register("orchestrate.at_once", _at_once, replace=True)
    register("orchestrate.sweep_name", _sweep_name, use_cache=True, replace=True)
    return made


def _left_to_you() -> None:
    raise ValueError("left to you")


def _if_set(value: str | None, without: str, with_it: str) -> str:
    """One of two choices: whether a variable is set decides."""
    return with_it if str(value or "").strip() else without


def _watchdog(default: str, file_timer: str | int) -> str:
    """The watchdog that an agent of torchrun's would have, or the default."""
    return "timer" if str(file_timer) == "1" else default


def _sweep_name(name: str | None = None) -> str:
    """What a sweep is called: as it was told, else as its recipe, whose file it is first of all."""
    from orchestrator.cli import source  # noqa: PLC0415 - which knows Hydra

    recipe = next(iter(source.LOADED.values()), None)
    made_up = recipe.path.stem if recipe is not None else "sweep"
    return str(name) if name is not None else made_up.replace("${", "_{")  # names directories, which Hydra resolves


def _at_once(jobs: int | str) -> int:
    """How many jobs a sweeper may ask for together."""
    return len(os.sched_getaffinity(0)) if jobs == "auto" else int(jobs)


def _keys() -> str:
    """For --help, whose template takes a dollar for the beginning of a name."""
    from orchestrator.cli.keys import keys  # noqa: PLC0415 - only for help

    return keys().replace("$", "$$")


def claim_number(run_id: str) -> int:
    """The lowest number that no live agent of this run, user and host holds; ours until this process ends."""
    folder = _lock_dir()
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:16]
    for number in range(_MOST):
        descriptor = _try_lock(folder / f"{digest}.{number}")
        if descriptor is not None:
            _held.append(descriptor)
            return number
    raise NodeError(f"more than {_MOST} agents of run {run_id} on this host")


def take_lock(name: str) -> bool:
    """Whether this process has got the lock of that name, of this user and host: until it ends, or `drop_locks`."""
    descriptor = _try_lock(_lock_dir() / name)
    if descriptor is not None:
        _taken.append(descriptor)
    return descriptor is not None


def drop_locks() -> None:
    """Let others have what `take_lock` took."""
    while _taken:
        os.close(_taken.pop())


def _lock_dir() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime and os.access(runtime, os.W_OK) else Path(tempfile.gettempdir())
    folder = base / f"orchestrator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise NodeError(f"{folder}: belongs to another user; set XDG_RUNTIME_DIR, or give node.name=NAME")
    return folder


def _try_lock(path: Path) -> int | None:
    """A lock on ``path``, or None if another process has it. The file stays: removing it would race with a taker."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    os.close(descriptor)
    return None
