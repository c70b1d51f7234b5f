"""Launch and finish two workers that do nothing: wall time, beside torchrun's in the same run.

python tests/bench/launch.py --torchrun PATH/TO/torchrun
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.paired import arguments, interpreter_start_s, median, ours, show, timed

options = arguments(__doc__ or "", pairs=9)
mine: list[float] = []
theirs: list[float] = []
with tempfile.TemporaryDirectory() as name:
    directory = Path(name)
    script = directory / "noop.py"
    script.write_text("")
    command = ours("worker.nproc=2", "logs=files", "--", sys.executable, str(script))
    timed(command, directory)  # the first run compiles .pyc files
    for _ in range(options.pairs):
        mine.append(timed(command, directory))
        if options.torchrun:
            theirs.append(timed([options.torchrun, "--standalone", "--nproc-per-node=2", str(script)], directory))

ours_s, torchrun_s = median(mine), median(theirs)
show(
    {
        "what": "launch and finish 2 no-op workers, embedded server",
        "pairs": options.pairs,
        "ours_s": ours_s,
        "torchrun_s": torchrun_s,
        "ratio": round(ours_s / torchrun_s, 3) if ours_s and torchrun_s else None,
        "goal": "ratio <= 0.25",
        "interpreter_start_s": round(interpreter_start_s(), 4),
    }
)
