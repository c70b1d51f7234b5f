"""An agent for tests that die: launches a guard as argv[1] (JSON) says, tells when all runs, and waits."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from orchestrator.edge.guard.client import GuardClient, GuardEvent, GuardStarted, ServerStarted, Spawned
from orchestrator.edge.guard.launch import launch


def enter(group: str | None) -> None:
    if group is not None:
        Path(group, "cgroup.procs").write_text("0")


async def main() -> None:
    plan = json.loads(sys.argv[1])
    process = launch()
    ready = asyncio.Event()
    pids: list[int] = []
    servers: list[int] = []
    containment: list[str] = []

    def on_event(event: GuardEvent) -> None:
        if isinstance(event, GuardStarted):
            containment.append(event.containment)
        if isinstance(event, Spawned):
            pids.append(event.pid)
        if isinstance(event, ServerStarted):
            servers.append(event.pid)
        if len(pids) == len(plan["workers"]) and len(servers) == len(plan["servers"]):
            ready.set()

    client = GuardClient(process, on_event)
    client.attach(asyncio.get_running_loop())
    if plan["will"]:
        client.will({"unix": plan["will"]}, [b"PING\r\n", b"LEAVE me\r\n"])
    for handle, argv in enumerate(plan["workers"]):
        client.spawn(handle, argv, dict(os.environ), cwd=plan["home"])
    for handle, argv in enumerate(plan["servers"], 1000):
        client.serve(handle, argv, dict(os.environ), log=None, cleanup=plan["cleanup"])
    await ready.wait()
    print(
        json.dumps({"guard": process.pid, "pids": pids, "servers": servers, "containment": containment[0]}), flush=True
    )
    await asyncio.Event().wait()


enter(json.loads(sys.argv[1])["group"])
asyncio.run(main())
