"""Which words of a command are Python's own, and which name what it runs.

Only what a zygote can do in its stead is understood: a script, or a module by -m. Invariant: what is not understood
for certain is not taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_PYTHON = re.compile(r"python([0-9]+(\.[0-9]+)?t?)?")
_FLAGS = re.compile(r"-[bBdEIOPqRsSuv]+")
_VALUED = ("-W", "-X")


def split(cmd: Sequence[str]) -> tuple[int, int] | None:
    """How many words are Python and its flags, and how many then name what runs; None if that is nothing of ours."""
    if not cmd or not _PYTHON.fullmatch(cmd[0].rpartition("/")[2]):
        return None
    at = 1
    while at < len(cmd) and cmd[at].startswith("-"):
        word = cmd[at]
        if word == "-m":
            return (at, 2) if at + 1 < len(cmd) else None
        if word in _VALUED:
            at += 2
        elif word.startswith(_VALUED) or _FLAGS.fullmatch(word):
            at += 1
        else:
            return None
    return (at, 1) if at < len(cmd) and cmd[at] else None
