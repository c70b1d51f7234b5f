"""Prints its place in each round, and then works for a while."""

import os
import time

seconds = float(os.environ.get("SECONDS_TO_RUN", "60"))
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
node, nodes = int(os.environ["GROUP_RANK"]), int(os.environ["GROUP_WORLD_SIZE"])
number = os.environ.get("ORCHESTRATOR_ROUND", "?")

print(f"round {number}: rank {rank} of {world}, on node {node} of {nodes}", flush=True)
end = time.monotonic() + seconds
while time.monotonic() < end:
    time.sleep(min(1.0, max(0.0, end - time.monotonic())))
print(f"round {number}: rank {rank} is done", flush=True)
