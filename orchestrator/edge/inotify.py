"""The kernel's word that a file was written to: the few calls of inotify(7) that tailing needs.

No threads, no policy. Invariant: a lost notification is never silent: an overflowing queue reads as "look at all".
"""

from __future__ import annotations

import ctypes
import os
import struct

MODIFY = 0x0002
CLOSE_WRITE = 0x0008
MOVED_TO = 0x0080
OVERFLOW = 0x4000

_EVENT = struct.Struct("iIII")  # wd, mask, cookie, length of the name that follows


class Inotify:
    """One inotify instance; ``fd`` becomes readable when a watched file changes."""

    def __init__(self) -> None:
        """Raises OSError when the user's instances are used up (fs.inotify.max_user_instances)."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            raise _last_error("inotify_init1")

    def watch(self, path: str, mask: int = MODIFY | CLOSE_WRITE) -> int:
        """Watch what ``path`` names now, a directory for what befalls its files; the number that `read` gives.

        Raises OSError.
        """
        number: int = self._libc.inotify_add_watch(self.fd, os.fsencode(path), mask)
        if number < 0:
            raise _last_error(path)
        return number

    def unwatch(self, number: int) -> None:
        """End a watch; one whose file is gone has ended already."""
        self._libc.inotify_rm_watch(self.fd, number)

    def read(self) -> dict[int, int] | None:
        """What changed since the last call, as number -> mask; None when the queue overflowed: look at all files."""
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return {}
        changed: dict[int, int] = {}
        at = 0
        while at < len(data):
            number, mask, _cookie, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            if mask & OVERFLOW:
                return None
            changed[number] = changed.get(number, 0) | mask
        return changed

    def close(self) -> None:
        """Give the instance and all its watches back."""
        os.close(self.fd)


def _last_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
