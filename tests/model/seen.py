"""What the server has stored of a group, read by the test itself: none of the product's code looks at it on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

PEEK = """
local function pairs_of(flat)
  local found = {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end
local function hash(key) return pairs_of(redis.call('HGETALL', key)) end
local function scored(key) return pairs_of(redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')) end
local eternal = {}
for _, key in ipairs(KEYS) do if redis.call('PTTL', key) == -1 then eternal[#eternal + 1] = key end end
local last = redis.call('XREVRANGE', KEYS[13], '+', '-', 'COUNT', 1)[1]
return cjson.encode({
  group = hash(KEYS[1]), leases = scored(KEYS[2]), nonces = hash(KEYS[3]),
  waiting = redis.call('ZRANGE', KEYS[5], 0, -1),
  absent = redis.call('SMEMBERS', KEYS[6]), seats = hash(KEYS[8]), slots = hash(KEYS[9]),
  done = redis.call('SMEMBERS', KEYS[10]), charges = scored(KEYS[11]), free = scored(KEYS[12]),
  eternal = eternal, last = last and last[1] or '',
})
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """The stored group after a command."""

    group: dict[str, str]
    leases: dict[str, int]  # name -> instant at which it lapses
    nonces: dict[str, str]
    waiting: tuple[str, ...]
    absent: frozenset[str]
    seats: dict[str, tuple[int, int]]  # name -> slot, base rank
    slots: dict[str, int]
    done: frozenset[str]
    charges: dict[str, int]  # what was restarted -> instant
    free: dict[str, int]
    eternal: tuple[str, ...]  # keys without a TTL
    last: str  # entry of the stream

    @property
    def state(self) -> str:
        return self.group.get("state", "")

    @property
    def stands(self) -> bool:
        return self.state in ("settled", "restoring")

    @property
    def round(self) -> int:
        return self.number("round")

    @property
    def token(self) -> int:
        return self.number("token")

    @property
    def key(self) -> tuple[int, str]:
        """The round that stands, or stood last."""
        return self.token, self.group.get("hash", "")

    @property
    def size(self) -> int:
        return self.number("size")

    @property
    def spent(self) -> int:
        """Charged restarts that count against restart.budget."""
        return self.number("charged") - self.number("forgiven") - self.number("apart")

    @property
    def ended(self) -> tuple[str | None, ...]:
        """Which round ended last, and how."""
        return tuple(self.group.get(field) for field in ("end_round", "end_kind", "end_action"))

    @property
    def outcome(self) -> tuple[str | None, ...] | None:
        """How the run ended, if it did."""
        if self.state != "closed":
            return None
        return tuple(self.group.get(field) for field in ("outcome", "exit_code", "close_why", "close_cause"))

    def number(self, field: str) -> int:
        return int(float(self.group.get(field, 0)))


def _seat(written: str) -> tuple[int, int]:
    slot, _, base = written.partition(":")
    return int(slot), int(base)


def seen(raw: bytes) -> Seen:
    """What `PEEK` has found. Lua's empty table is an empty object."""
    found: dict[str, Any] = json.loads(raw)
    return Seen(
        group=dict(found["group"]),
        leases={name: int(float(at)) for name, at in dict(found["leases"]).items()},
        nonces=dict(found["nonces"]),
        waiting=tuple(found["waiting"]),
        absent=frozenset(found["absent"]),
        seats={name: _seat(written) for name, written in dict(found["seats"]).items()},
        slots={name: int(slot) for name, slot in dict(found["slots"]).items()},
        done=frozenset(found["done"]),
        charges={name: int(float(at)) for name, at in dict(found["charges"]).items()},
        free={name: int(float(at)) for name, at in dict(found["free"]).items()},
        eternal=tuple(found["eternal"]),
        last=found["last"],
    )
