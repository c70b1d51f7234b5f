"""What torchrun's flags are called here, for whoever types one out of habit.

Nothing is translated here: the words to write are shown. `orchestrate-torchrun` takes the flags themselves.
Invariant: a flag of torchrun never means something else.
"""

from __future__ import annotations

from orchestrator.errors import Problem

_KEYS = {
    "nnodes": "nodes",
    "nproc-per-node": "worker.nproc",
    "node-rank": "node.rank",
    "local-addr": "node.addr",
    "rdzv-id": "run_id",
    "rdzv-endpoint": "rendezvous.url",
    "max-restarts": "restart.budget.max",
    "role": "role",
    "log-dir": "logs.dir",
}
_OTHERWISE = {
    "rdzv-backend": "give rendezvous.url=redis://HOST on several nodes",
    "rdzv-conf": "give rendezvous.join_timeout_s and its like",
    "master-addr": "leave it out: each round makes up its own",
    "master-port": "leave it out: each round makes up its own",
    "monitor-interval": "leave it out: nothing is polled",
    "tee": "choose logs=tee, files or inherit",
    "redirects": "choose logs=tee, files or inherit",
    "local-ranks-filter": "give logs.console=[0]",
    "logs-specs": "choose logs=tee, files or inherit",
    "start-method": "leave it out",
    "signals-to-handle": "see stop.forward and stop.preempt_signals",
}
_BARE = {
    "standalone": "leave it out: one node brings its own server",
    "no-python": "leave it out: the command behind -- is run as it is",
    "module": "write -- python -m MODULE",
    "run-path": "write -- python SCRIPT",
}


def recognised(flag: str) -> bool:
    """Whether ``flag`` is one of torchrun's."""
    return _name(flag) in _KEYS | _OTHERWISE | _BARE


def takes_value(flag: str) -> bool:
    """Whether the next word is its value."""
    return _name(flag) not in _BARE


def override(flag: str, value: str) -> str:
    """The same as an override; empty where there is none."""
    key = _KEYS.get(_name(flag), "")
    if key == "rendezvous.url" and "://" not in value:
        value = f"redis://{value.partition(':')[0]}"  # the port of torchrun's store is no server's
    return f"{key}={value}" if key else ""


def problem(flag: str, value: str) -> Problem:
    """What to write instead."""
    instead = override(flag, value)
    return Problem(flag, "is torchrun's", f"write {instead}" if instead else (_OTHERWISE | _BARE)[_name(flag)])


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("_", "-") if flag.startswith("--") else ""
