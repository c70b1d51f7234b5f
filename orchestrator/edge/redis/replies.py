"""From what the commands reply to the words of `core.rendezvous`: the one place that knows the wire's order.

A reply is input. Invariant: whatever arrives, it becomes a typed value or a RendezvousError, nothing in between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.core.charges import Charge, Ledger
from orchestrator.core.failures import Failure
from orchestrator.core.learning import Gaps
from orchestrator.core.rendezvous import (
    Closed,
    Drained,
    Emptied,
    Fate,
    Held,
    JoinReply,
    Lapsed,
    Notice,
    Place,
    Refused,
    RenewReply,
    Replacement,
    ReplaceReply,
    Restart,
    Restoring,
    Seat,
    Settled,
    Standing,
    Superseded,
    Up,
    Verdict,
    Waiting,
)
from orchestrator.core.words import Outcome
from orchestrator.errors import RendezvousError

Reply = JoinReply | RenewReply | Fate | ReplaceReply | Notice
Row = Sequence[Any]

_INSTANT = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")  # an id of the stream
_GAPS = re.compile(r"[^ ]{1,100} [0-9]{1,16} [0-9]{1,16} [0-9]{1,16}")
_TEXTS = ("kind", "group", "node", "message", "error_type", "traceback", "stacks", "log")  # of a failure
_NUMBERS = ("rank", "local_rank", "round", "incarnation", "pid", "exit_code", "signal")


def _number(value: object) -> int:
    if isinstance(value, float) and value.is_integer():  # the stream's JSON comes from Lua, which knows only doubles
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _cause(value: object) -> Mapping[str, Any] | None:
    """A failure as a dict: another agent's words, which end in our result and on our terminal."""
    told = json.loads(_text(value) or "null")
    if told is None:
        return None
    if not isinstance(told, dict):
        raise TypeError("a cause is a mapping")
    cause = Failure.from_dict(told).to_dict()  # a TypeError if something is missing
    for name in _NUMBERS:
        if cause[name] is not None or name in _NUMBERS[:4]:
            _number(cause[name])
    float(cause["at"])
    float(cause["age_s"])
    for text in (*(cause[name] for name in _TEXTS), *cause["last_lines"], *cause["phases"]):
        _text(text)
    return cause


def _seat(row: Row) -> Seat:
    fields = ("round", "token", "slot", "size", "base_rank", "world_size")
    return Seat(
        **dict(zip(fields, map(_number, row[:6]), strict=True)),
        members_hash=_text(row[6]),
        master_addr=_text(row[7]),
        master_port=_number(row[8]),
        charged=_number(row[9]),
        consecutive=_number(row[10]),
        why=_text(row[11]),
        ledger=_ledger(_text(row[12])),
    )


def _ledger(written: str) -> Ledger:
    head, *rows = written.split(" ")
    forgiven, apart, stalled, paid = map(int, head.split(","))
    charges = (row.rsplit(":", 1) for row in rows)
    return Ledger(forgiven, tuple(Charge(id_, int(age_ms)) for id_, age_ms in charges), apart, stalled, paid)


def ledger_text(ledger: Ledger) -> str:
    """A ledger as commands carry it."""
    head = f"{ledger.forgiven},{ledger.apart},{ledger.stalled},{ledger.paid}"
    return " ".join([head, *(f"{charge.id}:{charge.age_ms}" for charge in ledger.charges)])


def _restart(row: Row) -> Restart:
    remaining = _number(row[3])
    return Restart(
        round=_number(row[0]),
        charged=bool(_number(row[1])),
        delay_ms=_number(row[2]),
        remaining=None if remaining < 0 else remaining,
        reason=_text(row[4]),
        cause=_cause(row[5]),
        id=_text(row[6]),
        head=_ledger(_text(row[7])),
    )


def _replacement(row: Row) -> Replacement:
    remaining = _number(row[2])
    return Replacement(
        charged=bool(_number(row[0])),
        delay_ms=_number(row[1]),
        remaining=None if remaining < 0 else remaining,
        id=_text(row[3]),
        head=_ledger(_text(row[4])),
    )


def _closed(row: Row) -> Closed:
    return Closed(
        outcome=Outcome(_text(row[0])),
        exit_code=_number(row[1]),
        reason=_text(row[2]),
        cause=_cause(row[3]),
        charged=_number(row[4]),
    )


_PARSERS: dict[str, Callable[[Row], Reply]] = {
    "seat": _seat,
    "waiting": lambda row: Waiting(
        _number(row[0]),
        _number(row[1]),
        Place(_number(row[2])),
        round=_number(row[3]),
        token=_number(row[4]),
        size=_number(row[5]),
        members_hash=_text(row[6]),
    ),
    "held": lambda row: Held(_text(row[0]), _number(row[1])),
    "standing": lambda row: Standing(_number(row[0])),
    "lapsed": lambda row: Lapsed(_text(row[0])),
    "restoring": lambda row: Restoring(_number(row[0]), bool(_number(row[1]))),
    "superseded": lambda row: Superseded(
        _number(row[0]), _text(row[1]), tuple(_text(row[2]).split("\t") if row[2] else ())
    ),
    "refused": lambda row: Refused(_text(row[0])),
    "restart": _restart,
    "replace": _replacement,
    "closed": _closed,
    "settled": lambda row: Settled(_number(row[0])),
    "up": lambda row: Up(_number(row[0]), _number(row[1])),
    "emptied": lambda _row: Emptied(),
    "drained": lambda row: Drained(_text(row[0]), _text(row[1])),
}


def _unexpected(raw: object, problem: object) -> RendezvousError:
    return RendezvousError(f"the server's reply is not one that this version knows ({problem}): {raw!r:.200}")


def parse(raw: object) -> Reply:
    """Any reply, typed."""
    if not isinstance(raw, list):
        raise _unexpected(raw, "not a list")
    try:
        return _PARSERS[raw[0]](raw[1:])
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as problem:
        raise _unexpected(raw, problem) from problem


def is_forgetful(raw: object) -> bool:
    """Whether the server has forgotten our seat, and wishes to have it back."""
    parsed = parse(raw)
    return isinstance(parsed, Restoring) and not parsed.back


def join_reply(raw: object) -> tuple[str, JoinReply]:
    """The stream's last id before the join, and what the join led to."""
    match raw:
        case [str(cursor), reply] if _INSTANT.fullmatch(cursor):
            parsed = parse(reply)
            if isinstance(parsed, JoinReply):
                return cursor, parsed
    raise _unexpected(raw, "no reply to join")


def seat_reply(raw: object) -> JoinReply | Lapsed:
    """What has become of a join; lapsed: it has to be repeated."""
    parsed = parse(raw)
    if isinstance(parsed, JoinReply | Lapsed):
        return parsed
    raise _unexpected(raw, "no reply to seat")


def renew_reply(raw: object) -> RenewReply:
    """What a renewal says about the round."""
    parsed = parse(raw)
    if isinstance(parsed, RenewReply):
        return parsed
    raise _unexpected(raw, "no reply to renew")


def verdict_reply(raw: object) -> Verdict:
    """The fate of the claimed round."""
    parsed = parse(raw)
    if isinstance(parsed, Verdict):
        return parsed
    raise _unexpected(raw, "no verdict")


def fate_reply(raw: object) -> Fate:
    """The fate of the claimed round, and of its caller's node."""
    parsed = parse(raw)
    if isinstance(parsed, Fate):
        return parsed
    raise _unexpected(raw, "no verdict")


def replace_reply(raw: object) -> ReplaceReply:
    """Whether some workers may be started again within the round."""
    parsed = parse(raw)
    if isinstance(parsed, ReplaceReply):
        return parsed
    raise _unexpected(raw, "no reply to replace")


def closed_reply(raw: object) -> Closed:
    """How the run ended."""
    parsed = parse(raw)
    if isinstance(parsed, Closed):
        return parsed
    raise _unexpected(raw, "no end of a run")


def notice(fields: Mapping[str, str]) -> Notice:
    """One entry of the group's stream."""
    try:
        raw = json.loads(fields["reply"])
    except (KeyError, ValueError, RecursionError) as problem:
        raise _unexpected(fields, problem) from problem
    parsed = parse(raw)
    if isinstance(parsed, Notice):
        return parsed
    raise _unexpected(raw, "no notice")


def gaps_reply(raw: object) -> dict[str, Gaps]:
    """What is known of the run's gaps, by limit."""
    match raw:
        case ["gaps", str(rows)] if all(_GAPS.fullmatch(row) for row in rows.splitlines()):
            found = (row.split(" ") for row in rows.splitlines())
            return {limit: Gaps(int(a) / 1000, int(b) / 1000, int(n)) for limit, a, b, n in found}
    raise _unexpected(raw, "no gaps")


def publish_reply(raw: object) -> tuple[bool, str | None]:
    """Whether a job is published now, and the other one that is there instead of it."""
    match raw:
        case ["published"]:
            return True, None
        case ["unpublished"]:
            return False, None
        case ["differs", str(job)]:
            return False, job
    raise _unexpected(raw, "no reply to publish")
