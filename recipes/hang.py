"""Ten steps; at the fifth, rank 1 falls asleep in its checkpoint in the first HANGS attempts, and is noticed."""

import os
import time

from orchestrator.worker import progress, section

SAVE_AT = 5
rank = os.environ["RANK"]
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"]) + 1


def save() -> None:
    """Waits for a disk that does not answer."""
    if rank == "1" and attempt <= int(os.environ.get("HANGS", "1")):
        time.sleep(3600)


for step in range(10):
    progress(step)
    time.sleep(0.05)
    if step == SAVE_AT:
        with section("checkpoint"):
            save()
print(f"attempt {attempt}: rank {rank} is done")
