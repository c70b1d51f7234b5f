"""Says who this worker is, by the variables that torchrun sets as well."""

import os

rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
print(f"hello from rank {rank} of {world}, process {os.getpid()}, local rank {os.environ['LOCAL_RANK']}")
