"""From a request to its reply: which of the table's methods an opcode means, and in which form its result is sent."""

from __future__ import annotations

from orchestrator.edge.tcpstore import wire
from orchestrator.edge.tcpstore.wire import I64, U32, packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orchestrator.edge.tcpstore.table import Table


def answer(table: Table, client: int, op: int, fields: list[Any]) -> bytes:  # noqa: C901, PLR0912 - one case an opcode
    """Do what is asked for. ``fields`` are as the opcode's layout says. Raises WireError."""
    reply = b""
    match op:
        case wire.SET:
            table.set(*fields)
        case wire.COMPARE_SET:
            reply = packed(table.compare_set(*fields))
        case wire.GET:
            reply = packed(table.get(*fields))
        case wire.ADD:
            reply = I64.pack(table.add(*fields))
        case wire.CHECK:
            reply = wire.READY if all(map(table.has, fields)) else wire.NOT_READY
        case wire.WAIT:
            reply = table.wait(client, fields)
        case wire.GETNUMKEYS:
            reply = I64.pack(len(table.values))
        case wire.DELETE_KEY:
            reply = I64.pack(table.delete(*fields))
        case wire.APPEND:
            table.append(*fields)
        case wire.MULTI_GET:
            reply = table.multi_get(fields)
        case wire.MULTI_SET:
            for at in range(0, len(fields), 2):
                table.set(fields[at], fields[at + 1])
        case wire.CANCEL_WAIT:
            table.forget(client)
            reply = wire.WAIT_CANCELED
        case wire.PING:
            reply = U32.pack(*fields)
        case wire.QUEUE_PUSH:
            table.push(*fields)
        case wire.QUEUE_POP:
            reply = table.pop(*fields)
        case wire.QUEUE_LEN:
            reply = I64.pack(table.queue_len(*fields))
        case wire.LIST_KEYS:
            reply = table.list_keys()
        case wire.BARRIER:
            reply = table.barrier(client, *fields)
    return reply
