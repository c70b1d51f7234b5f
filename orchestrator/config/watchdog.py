"""``watchdog``: what each choice may say, what is wrong together, and the policy that it means.

Invariant: a limit that is accepted can be held by a worker that speaks as often as it can (`edge/worker_beats.py`).
"""

# ruff: noqa: RUF009 - calls of key make dataclass fields, as field() does

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from posixpath import dirname

from orchestrator.config.convert import Choices, convert, key
from orchestrator.config.host import Host
from orchestrator.config.readers import mapping_of, name, number, optional, text, whole
from orchestrator.config.report import Report
from orchestrator.config.shape import object_of, shaped
from orchestrator.core.learning import OUTLIER
from orchestrator.core.policies import LearnPolicy, WatchdogKind, WatchdogPolicy

_limit = number(0.5, what="seconds")  # five times what separates two words of a worker


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogDisabled:
    """watchdog=disabled."""

    kind: str = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogObserve:
    """watchdog=observe."""

    kind: str = "observe"
    after_s: float = key(_limit, default=300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogTimer:
    """watchdog=timer."""

    kind: str = "timer"
    path: str | None = key(optional(text), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnConfig:
    """``watchdog.learn``."""

    factor: float = key(number(OUTLIER), default=3.0)
    after: int = key(whole(2), default=20)
    floor_s: float = key(_limit, default=10.0)


@shaped(lambda: object_of(LearnConfig))
def _learn(value: object, path: str, report: Report) -> object:
    found = convert(LearnConfig, value, path, report)
    return LearnPolicy(factor=found.factor, after=found.after, floor_s=found.floor_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogHeartbeat:
    """watchdog=heartbeat."""

    kind: str = "heartbeat"
    timeout_s: float = key(_limit, default=30.0)
    warmup_s: float = key(_limit, default=120.0)
    learn: LearnPolicy | None = key(optional(_learn), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionConfig:
    """One of ``watchdog.sections``."""

    timeout_s: float | None = key(_limit, default=None)


@shaped(lambda: {**object_of(SectionConfig), "required": ["timeout_s"]})
def section_limit(value: object, path: str, report: Report) -> object:
    """The limit of a section, and whether workers can say its name."""
    name(path.partition("watchdog.sections.")[2], path, report)
    found = convert(SectionConfig, value, path, report)
    if found.timeout_s is None and report.clean(path):
        report.problem(path, "has no timeout_s", "give the seconds that a worker may stay in it")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogSections:
    """watchdog=sections."""

    kind: str = "sections"
    timeout_s: float = key(_limit, default=30.0)
    warmup_s: float = key(_limit, default=120.0)
    sections: Mapping[str, SectionConfig] = key(mapping_of(section_limit), default={})
    learn: LearnPolicy | None = key(optional(_learn), default=None)


WatchdogConfig = WatchdogDisabled | WatchdogObserve | WatchdogTimer | WatchdogHeartbeat | WatchdogSections
WATCHDOG: Choices = {
    "disabled": WatchdogDisabled,
    "observe": WatchdogObserve,
    "timer": WatchdogTimer,
    "heartbeat": WatchdogHeartbeat,
    "sections": WatchdogSections,
}


def check_watchdog(chosen: WatchdogConfig, report: Report) -> None:
    """Report what no worker could hold, and what would watch nothing."""
    if isinstance(chosen, WatchdogSections) and not chosen.sections and report.clean("watchdog"):
        fact = "names no section with watchdog=sections"
        report.problem("watchdog.sections", fact, "give {NAME: {timeout_s: SECONDS}}, or choose watchdog=heartbeat")
    if not isinstance(chosen, WatchdogHeartbeat | WatchdogSections):
        return
    if report.clean("watchdog.timeout_s", "watchdog.warmup_s") and chosen.warmup_s < chosen.timeout_s:
        fact = f"{chosen.warmup_s:g} is less than watchdog.timeout_s {chosen.timeout_s:g}"
        report.problem("watchdog.warmup_s", fact, f"allowed: from {chosen.timeout_s:g}, or a smaller timeout_s")
    _check_learn(chosen, report)


def _check_learn(chosen: WatchdogHeartbeat | WatchdogSections, report: Report) -> None:
    """Report limits of which none could become any shorter."""
    if chosen.learn is None or not report.clean("watchdog.learn", "watchdog.timeout_s", "watchdog.sections"):
        return
    stays = chosen.sections.values() if isinstance(chosen, WatchdogSections) else ()
    longest_s = max([chosen.timeout_s, *(one.timeout_s or 0.0 for one in stays)])
    if chosen.learn.floor_s >= longest_s:
        fact = f"{chosen.learn.floor_s:g} is not below any timeout_s, so nothing could be learnt"
        report.problem("watchdog.learn.floor_s", fact, f"allowed: below {longest_s:g}, or a larger timeout_s")


def check_kinds(kinds: tuple[str, ...], chosen: WatchdogConfig, path: str, report: Report) -> None:
    """Report a rule that waits for a hang which nobody would notice, or only tell of."""
    if set(kinds) == {"hang"} and not watchdog_policy(chosen).can_fail and report.clean("watchdog"):
        fact = f"can never match: with watchdog={chosen.kind} a hang is no failure"
        report.problem(path, fact, "choose watchdog=heartbeat, sections or timer, or remove it")


def check_path(chosen: WatchdogConfig, host: Host, report: Report) -> None:
    """Report a pipe that cannot be made."""
    if isinstance(chosen, WatchdogTimer) and chosen.path is not None:
        directory = dirname(chosen.path) or "."
        if not host.is_dir(directory if directory.startswith("/") else f"{host.cwd}/{directory}"):
            report.problem("watchdog.path", f"{directory!r} is not a directory", "make it, or leave the path out")


def watchdog_policy(chosen: WatchdogConfig) -> WatchdogPolicy:
    """The policy that was chosen."""
    kind = WatchdogKind(chosen.kind)
    match chosen:
        case WatchdogDisabled():
            return WatchdogPolicy(kind=kind)
        case WatchdogObserve():
            return WatchdogPolicy(kind=kind, after_s=chosen.after_s)
        case WatchdogTimer():
            return WatchdogPolicy(kind=kind, path=chosen.path)
        case WatchdogHeartbeat():
            return WatchdogPolicy(kind=kind, timeout_s=chosen.timeout_s, warmup_s=chosen.warmup_s, learn=chosen.learn)
        case WatchdogSections():
            limits = {one: found.timeout_s or 0.0 for one, found in chosen.sections.items()}
            silence = WatchdogPolicy(kind=kind, timeout_s=chosen.timeout_s, warmup_s=chosen.warmup_s)
            return replace(silence, sections=limits, learn=chosen.learn)
