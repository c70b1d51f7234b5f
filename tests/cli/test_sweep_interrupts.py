"""Signals that reach a sweep while none of its jobs runs."""

from __future__ import annotations

import os
import signal

import pytest

from orchestrator.cli import argv
from orchestrator.cli.sweep import command
from orchestrator.cli.sweep.interrupts import Interrupted, heed, heed_no_more
from tests.cli.answers import handlers

__all__ = ["handlers"]


@pytest.mark.parametrize(
    ("signum", "means"),
    [(signal.SIGINT, signal.SIGINT), (signal.SIGHUP, signal.SIGTERM), (signal.SIGUSR2, signal.SIGUSR2)],
)
def test_what_stops_a_run_interrupts_and_what_is_for_workers_does_nothing(signum: int, means: int) -> None:
    heed({signal.SIGUSR2}, {signal.SIGUSR1, signal.SIGUSR2})
    os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(Interrupted) as told:
        os.kill(os.getpid(), signum)
    assert told.value.signum == means
    heed_no_more()
    assert signal.getsignal(signum) is (signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)


def test_what_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    heed()
    os.kill(os.getpid(), signal.SIGHUP)
    heed_no_more()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_ctrl_c_before_anything_was_begun_ends_in_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "through_hydra", interrupted)
    line = argv.parse(["-m", "worker.env.A=1,2", "--", "true"])
    assert command.sweep(line, lambda *_: 0, lambda _: None) == 130
