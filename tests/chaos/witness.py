"""A worker that writes down what it was told, and then, over and over, that it still runs. Standard library only.

    python -I -S witness.py DIRECTORY

One file a worker: a line of JSON, then the instant of the last beat in ns of the monotonic clock, which all workers of
one machine share. It runs until it is stopped, or until there is a file DIRECTORY/end. Invariant: at the last beat it
was alive, so beats of two rounds that interleave are rounds that ran at the same time.
"""

from __future__ import annotations

import json
import os
import sys
import time

BEAT_S = 0.02
TOLD = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID",
    "ORCHESTRATOR_ROUND",
    "ORCHESTRATOR_TOKEN",
    "WITNESS_NODE",
)


def main(directory: str) -> None:
    told = {name: os.environ.get(name, "") for name in TOLD}
    began = time.monotonic_ns()
    head = json.dumps({**told, "pid": os.getpid(), "began_ns": began}).encode() + b"\n"
    name = f"{told['ORCHESTRATOR_TOKEN']}.{told['RANK']}.{os.getpid()}"
    fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, head + b"%020d\n" % began)
    while not os.path.exists(f"{directory}/end"):  # noqa: PTH110 - pathlib takes longer to import than this to start
        os.pwrite(fd, b"%020d\n" % time.monotonic_ns(), len(head))
        time.sleep(BEAT_S)


if __name__ == "__main__":
    main(sys.argv[1])
