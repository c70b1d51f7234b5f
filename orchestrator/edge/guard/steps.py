"""What a person can do about a process that could not be started: which key it hangs on, or which limit.

Words only. Invariant: every step that hangs on a key of the configuration names it.
"""

from __future__ import annotations

import os
from errno import EAGAIN, EMFILE, ENFILE

_KEYS = {
    "exec": "worker.cmd",
    "chdir": "worker.cwd",
    "umask": "worker.umask",
    "limits": "worker.limits",
    "affinity": "worker.affinity",
    "open_stdout": "logs.dir",
    "open_stderr": "logs.dir",
}
_REASONS = {
    EAGAIN: "no more processes are allowed, by ulimit -u or by pids.max of the cgroup",
    EMFILE: "no more open files are allowed, by ulimit -n",
    ENFILE: "no more open files are allowed on this machine, by fs.file-max",
}


def spawn_failure(program: str, step: str, errno: int) -> str:
    """Of a worker: the program, what the kernel said, at which step, and the key or the limit to look at."""
    name, dot, detail = step.partition(".")
    key = _KEYS.get(name)
    if key is not None:
        return f"{program}: {os.strerror(errno)} (at {name}; see {key}{dot}{detail})"
    reason = _REASONS.get(errno)
    return f"{program}: {os.strerror(errno)} (at {step}{f'; {reason}' if reason else ''})"
