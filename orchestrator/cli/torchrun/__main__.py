"""``python -m orchestrator.cli.torchrun`` is ``orchestrate-torchrun``."""

from __future__ import annotations

import sys

from orchestrator.cli.torchrun.command import main

if __name__ == "__main__":
    sys.exit(main())
