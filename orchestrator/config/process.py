"""What the kernel is asked to give each worker: its limits (setrlimit) and its processors.

Readers of single values, and their checks against this machine. Invariant: what is returned can be set here as it
stands, by a process that has no privilege.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.config.host import Host
from orchestrator.config.report import INVALID, UNRESOLVED, Report, join, listed, nearest, show
from orchestrator.config.shape import any_of, shaped, written
from orchestrator.core import affinity

Bound = int | None  # None: unlimited
Limit = tuple[Bound, Bound]  # soft, hard

LIMITS = (
    "as", "core", "cpu", "data", "fsize", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime",
    "sigpending", "stack",
)  # fmt: skip
"""Those of Linux."""

_NUMBER = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")
_WORDS = ("numa", "spread")
_BOUND = "([0-9]{1,18}|unlimited)"
_LIMIT = any_of({"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_BOUND}(:{_BOUND})?$"})
_CPUS = any_of({"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[-0-9, ]+$"})
_CPUS_MAX = 65536


@shaped(lambda: {"type": "object", "additionalProperties": False, "properties": dict.fromkeys(LIMITS, written(_LIMIT))})
def limits(value: object, path: str, report: Report) -> object:
    """A mapping of limits, by setrlimit's names in lower case. What of it is wrong is left out."""
    if not isinstance(value, Mapping):
        return report.problem(path, f"{show(value)} is not a mapping", "write name: value, or {} for none")
    found = {}
    for name, item in value.items():
        at = join(path, str(name))
        if name not in LIMITS:
            report.problem(at, "unknown limit", f"{nearest(name, LIMITS)}known: {listed(LIMITS)}")
        elif item is not UNRESOLVED:
            found[name] = _limit(item, at, report)
    return {name: bounds for name, bounds in found.items() if bounds is not INVALID}


def _limit(value: object, path: str, report: Report) -> object:
    """``65536``, ``unlimited``, or ``SOFT:HARD``, as a pair; one value stands for both."""
    parts = str(value).split(":") if isinstance(value, str | int) and not isinstance(value, bool) else []
    if not 1 <= len(parts) <= 2 or not all(part == "unlimited" or _NUMBER.fullmatch(part) for part in parts):  # noqa: PLR2004 - a pair
        hint = "" if not isinstance(value, str) or ":" in value else nearest(value, ("unlimited",))
        return report.problem(
            path, f"{show(value)} is not a limit", f"{hint}allowed: a number, unlimited, or SOFT:HARD"
        )
    soft, hard = (None if part == "unlimited" else int(part) for part in (parts[0], parts[-1]))
    if _exceeds(soft, hard):
        return report.problem(path, f"{show(value)} has its soft limit above its hard one", "allowed: SOFT up to HARD")
    return (soft, hard)


@shaped(any_of({"enum": [*_WORDS]}, _CPUS, {"type": "array", "minItems": 1, "items": written(_CPUS)}))
def cpus(value: object, path: str, report: Report) -> object:
    """``spread``, ``numa``, or a list of processors: ``"0-3,8"`` or ``[0, 1, "4-7"]``."""
    if value in _WORDS and isinstance(value, str):
        return value
    items = value if isinstance(value, list) else [value]
    found: set[int] = set()
    for item in items:
        if item is UNRESOLVED:
            return INVALID
        numbers = _cpus(item)
        if numbers is None:
            hint = nearest(item, _WORDS)
            remedy = f"{hint}allowed: numa, spread, or processors such as '0-3,8' or [0, 1]"
            return report.problem(path, f"{show(item)} is not a choice of processors", remedy)
        found |= numbers
    if not found:
        return report.problem(
            path, "[] names no processor", "allowed: at least one, or null for those that you may use"
        )
    return frozenset(found)


def _cpus(item: object) -> set[int] | None:
    if isinstance(item, bool) or not isinstance(item, str | int):
        return None
    found: set[int] = set()
    for part in str(item).split(","):
        match = _RANGE.fullmatch(part.strip())
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high or high >= _CPUS_MAX:
            return None
        found.update(range(low, high + 1))
    return found


def cpu_list(text: str) -> frozenset[int]:
    """What the kernel writes of processors; a node of memory alone has none."""
    return frozenset(_cpus(text.strip()) or ())


def check_limits(limits: Mapping[str, Limit], host: Host, report: Report) -> None:
    """Report limits that only a privileged process could set."""
    for name, (_, hard) in limits.items():
        ours = host.hard_limit(name)
        if _exceeds(hard, ours):
            fact = f"{_shown(hard)} is above the hard limit of this process, {_shown(ours)}"
            remedy = f"allowed: up to {_shown(ours)}, or raise that one before you start"
            report.problem(join("worker.limits", name), fact, remedy)


def check_devices(env: Mapping[str, str | None], nproc: int, host: Host, report: Report) -> None:
    """Report more workers than there are devices, where each is to see one of those that are named."""
    visible = env["CUDA_VISIBLE_DEVICES"] if "CUDA_VISIBLE_DEVICES" in env else host.env.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and len(visible.split(",")) < nproc:
        fact = f"gives each of {nproc} workers a device, and CUDA_VISIBLE_DEVICES={visible} has fewer"
        report.problem("worker.virtual_local_rank", fact, "lower worker.nproc, or name more devices")


def shares(chosen: str | frozenset[int] | None, nproc: int, host: Host, report: Report) -> tuple[affinity.Cpus, ...]:
    """Each local worker's processors; none at all if they are to be left as they are."""
    if chosen is None:
        return ()
    mine = host.cpu_set()
    if chosen == "spread":
        return affinity.spread(mine, nproc)
    if chosen == "numa":
        return affinity.by_node(host.numa_nodes(), mine, nproc)
    wanted = frozenset(chosen) if not isinstance(chosen, str) else frozenset()
    if missing := wanted - mine:
        several = "are not" if len(missing) > 1 else "is not"
        fact = f"{affinity.ranges(missing)} {several} among the processors that this process may use"
        report.problem("worker.affinity", fact, f"allowed: {affinity.ranges(mine)}, numa, spread")
    return (wanted,) * nproc


def _exceeds(one: Bound, other: Bound) -> bool:
    return other is not None and (one is None or one > other)


def _shown(bound: Bound) -> str:
    return "unlimited" if bound is None else str(bound)
