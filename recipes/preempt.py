"""STEPS short steps; on SIGTERM, the step that was reached is saved in CHECKPOINT, and the next run goes on from it."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from orchestrator.worker import progress, report

checkpoint = Path(os.environ["CHECKPOINT"])
steps = int(os.environ["STEPS"])
told = False


def on_sigterm(*_: object) -> None:
    """Only remember it: the step that is being done shall be finished."""
    global told  # noqa: PLW0603 - a signal handler has nowhere else to write
    told = True


def save(step: int) -> None:
    """A reader finds the old file or the new one, whole."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    draft = checkpoint.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"step": step}))
    draft.replace(checkpoint)


signal.signal(signal.SIGTERM, on_sigterm)
step = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
if step:
    print(f"going on from step {step}")
while step < steps:
    time.sleep(0.05)
    step += 1
    progress(step)
    if step % 10 == 3:  # noqa: PLR2004 - not too many lines
        print(f"step {step}")
    if told:
        save(step)
        print(f"saved at step {step}")
        sys.exit(1)  # any code will do: whoever was told to stop has not failed
checkpoint.unlink(missing_ok=True)
report(steps=steps)
print(f"done after {steps} steps")
