"""Signals that reach a sweep while no jobs of its own run: its sweeper thinks, or another launcher is at work.

While jobs run, `signals` answers. Invariant: from the first batch to the sweep's end no signal that stops a run, or
that runs pass on, ends the process where it is.
"""

from __future__ import annotations

import signal
from collections.abc import Set as AbstractSet
from types import FrameType

from orchestrator.cli.signals import STOP_SIGNALS


class Interrupted(BaseException):
    """A signal came; no `except Exception` of a sweeper or a launcher may swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def heed(stops: AbstractSet[int] = frozenset(), others: AbstractSet[int] = frozenset()) -> None:
    """Have those of ``stops``, and what stops every run, raise `Interrupted`; ``others`` find no workers to go to."""
    for signum in {*STOP_SIGNALS, *stops}:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup: stays so
            signal.signal(signum, _interrupt)
    for signum in others - stops - {*STOP_SIGNALS}:
        signal.signal(signum, _pass)


def heed_no_more() -> None:
    """The sweep is putting its end in order: a signal from now on cuts that short."""
    for signum in signal.valid_signals():
        if signal.getsignal(signum) is _interrupt:
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    raise Interrupted(signal.SIGTERM if signum == signal.SIGHUP else signum)  # what differs is who sends it


def _pass(_signum: int, _frame: FrameType | None) -> None:
    """It is for workers, of which there are none."""
