"""Rank 1 exits with code 3 in the first FAILURES attempts; everything else succeeds."""

import os
import sys

rank = os.environ["RANK"]
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"]) + 1

if rank == "1" and attempt <= int(os.environ.get("FAILURES", "2")):
    print(f"attempt {attempt}: not this time", file=sys.stderr)
    sys.exit(3)
print(f"attempt {attempt}: rank {rank} is done")
