"""Three calls of the C library that Python lacks, or has in a form too dear between fork and exec.

Invariant: after `die_with_parent` the calling process does not outlive the *thread* that forked it, which is why only
the guard's single thread forks workers.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_SIG_SETMASK = 2
_NO_SIGNALS = ctypes.create_string_buffer(128)  # an empty sigset_t

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_sigprocmask = _libc.sigprocmask


def _call(option: int, value: int) -> None:
    if _prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def become_subreaper() -> None:
    """Adopt every orphan below this process, so that a double fork does not hide a process from us."""
    _call(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` dies; end at once if that has happened already.

    Credential changes and set-uid programs clear the setting: call it last.
    """
    _call(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def unblock_signals() -> None:
    """Lift the signal mask. `signal.pthread_sigmask` would make an enum of each old member: 0.1 ms in every child."""
    if _sigprocmask(_SIG_SETMASK, _NO_SIGNALS, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"sigprocmask: {os.strerror(code)}")
