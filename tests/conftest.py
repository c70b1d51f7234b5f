"""What all tests share: nothing is skipped where everything should be installed."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of a thousand interpreters compiles everything anew


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ORCHESTRATOR_TESTS_SKIP_NOTHING=1 a skipped test is a failed one."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("ORCHESTRATOR_TESTS_SKIP_NOTHING") == "1":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and nothing may be: {report.longrepr}"
    return report
