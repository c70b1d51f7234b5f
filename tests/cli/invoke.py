"""Run the commands in this process, as a shell would start them, and see what they say."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from orchestrator.cli import ctl, main

AMBIENT = (
    "LOGLEVEL",
    "SLURM_JOB_ID",
    "SLURM_NODEID",
    "SLURM_STEP_ID",
    "TORCHELASTIC_ENABLE_FILE_TIMER",
    "TORCHELASTIC_HEALTH_CHECK_PORT",
    "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE",
    "TORCHELASTIC_TIMER_FILE",
)


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The problems, one each."""
        return [line.removeprefix("error: ") for line in self.err.splitlines()]


class Commands:
    """Both commands, for tests."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch = patch
        self._capture = capture
        for name in AMBIENT:
            patch.delenv(name, raising=False)

    def orchestrate(self, *words: str) -> Said:
        """Run ``orchestrate`` with these words."""
        self._patch.setattr(sys, "argv", ["orchestrate", *words])
        return self._said(main.main())

    def ctl(self, *words: str) -> Said:
        """Run ``orchestratectl`` with these words."""
        self._patch.setattr(sys, "argv", ["orchestratectl", *words])
        return self._said(ctl.main())

    def _said(self, code: int) -> Said:
        captured = self._capture.readouterr()
        return Said(int(code), captured.out, captured.err)
