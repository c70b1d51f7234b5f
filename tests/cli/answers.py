"""A fixture for tests in which this process gets signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

USED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """What this process does with signals is as before, afterwards."""
    before = {signum: signal.getsignal(signum) for signum in USED}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)
