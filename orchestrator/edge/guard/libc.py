"""Calls of the C library that Python lacks, or has in a form too dear between fork and exec.

Invariant: after `die_with_parent` the calling process does not outlive the *thread* that forked it, which is why only
the guard's single thread forks workers.
"""

from __future__ import annotations

import ctypes
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_SIG_SETMASK = 2
_NO_SIGNALS = ctypes.create_string_buffer(128)  # an empty sigset_t

_CLOCK_BOOTTIME = 7
_TFD_TIMER_ABSTIME = 1
_NS = 1_000_000_000

_CLONE3 = 435  # on every architecture: it is younger than the common table
_CLONE_INTO_CGROUP = 0x2_0000_0000
_CLONE_WORDS = 11  # 64 bits each, up to the cgroup

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_sigprocmask = _libc.sigprocmask
_syscall = ctypes.PyDLL(None, use_errno=True).syscall  # holds the GIL: a fork must not happen in between
_syscall.restype = ctypes.c_long


class _Spec(ctypes.Structure):
    """A struct itimerspec: a period, which is not used, and a moment."""

    _fields_ = (
        ("period_s", ctypes.c_long),
        ("period_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


def _raise(call: str) -> NoReturn:
    code = ctypes.get_errno()
    raise OSError(code, f"{call}: {os.strerror(code)}")


def _call(option: int, value: int) -> None:
    if _prctl(option, value, 0, 0, 0) != 0:
        _raise(f"prctl({option})")


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


def await_adoption(parent: int, signum: int) -> None:
    """Wait until another process than ``parent`` is ours, by ``signum``, which must be blocked and is of no other use.

    Its default action should be none: one more of them may come.
    """
    _call(_PR_SET_PDEATHSIG, signum)
    while os.getppid() == parent:
        signal.sigwait({signum})


def unblock_signals() -> None:
    """Lift the signal mask. `signal.pthread_sigmask` would make an enum of each old member: 0.1 ms in every child."""
    if _sigprocmask(_SIG_SETMASK, _NO_SIGNALS, None) != 0:
        _raise("sigprocmask")


def fork_into(cgroup_fd: int) -> int:
    """As fork, but the child is born in that cgroup (a directory's descriptor). OSError where the kernel cannot.

    A child that moves there itself waits 5 to 15 ms for the whole machine's processes. Only for a process with a single
    thread whose child execs, or forks once more by `os.fork` and ends: what Python and the C library do after a fork is
    left out here, and concerns other threads and the thread's own number.
    """
    words = [_CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd]
    arguments = (ctypes.c_uint64 * _CLONE_WORDS)(*words)
    pid: int = _syscall(_CLONE3, arguments, ctypes.c_size_t(ctypes.sizeof(arguments)))
    if pid < 0:
        _raise("clone3")
    return pid


def boot_alarm() -> int:
    """A descriptor that can be read from a moment of CLOCK_BOOTTIME on, see `set_alarm`. timerfd_create(2)."""
    fd: int = _libc.timerfd_create(_CLOCK_BOOTTIME, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        _raise("timerfd_create")
    return fd


def set_alarm(fd: int, at_s: float | None) -> None:
    """Set the moment, in s of CLOCK_BOOTTIME; one that has passed is now, None is never.

    Only the kernel can keep it: the clock that poll counts on stands still while the machine sleeps.
    """
    at_ns = 0 if at_s is None else max(1, int(at_s * _NS))  # 0 disarms
    if _libc.timerfd_settime(fd, _TFD_TIMER_ABSTIME, ctypes.byref(_Spec(0, 0, *divmod(at_ns, _NS))), None) != 0:
        _raise("timerfd_settime")
