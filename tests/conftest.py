"""What all tests share: nothing is skipped where everything should be installed.

What a kernel or a container does not give cannot be installed, and may be missing.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

_NOT_TO_BE_INSTALLED = (
    "needs a writable",  # cgroup
    "needs loop devices",
    "no memory cgroup",
    "no IPv6 here",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ORCHESTRATOR_TESTS_SKIP_NOTHING=1 a skipped test is a failed one."""
    report = yield
    if any(reason in str(report.longrepr) for reason in _NOT_TO_BE_INSTALLED):
        return report
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("ORCHESTRATOR_TESTS_SKIP_NOTHING") == "1":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and nothing may be: {report.longrepr}"
    return report
