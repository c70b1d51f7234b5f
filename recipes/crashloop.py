"""Rank 1 raises; the others wait for it, as a collective operation would, until they are stopped."""

import os
import signal


def load(shard: int) -> None:
    """Fails as a loader of data does."""
    raise ValueError(f"shard {shard} has 0 rows, expected 1024")


if os.environ["RANK"] == "1":
    load(shard=1)
signal.pause()
