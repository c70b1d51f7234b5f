"""The facts of this machine that a configuration is judged by, handed in by whoever may look.

Made once, in ``cli/``; with it `config` is pure. Invariant: nothing here is read from the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """This machine and this process, as far as a configuration depends on them."""

    cwd: str
    env: Mapping[str, str]
    interpreter: str  # what __python__ stands for
    cpus: int
    gpus: Callable[[], int]  # counting them takes a look at the devices, so only when asked for
    is_file: Callable[[str], bool]
    is_dir: Callable[[str], bool]
    is_executable: Callable[[str], bool]
    default_path: str  # where programs are looked for when PATH is not set
    cpu_set: Callable[[], frozenset[int]]  # the processors that this process may use
    numa_nodes: Callable[[], tuple[frozenset[int], ...]]  # the machine's processors by NUMA node; none if it has no say
    hard_limit: Callable[[str], int | None]  # of this process, by setrlimit's name in lower case; None: unlimited
