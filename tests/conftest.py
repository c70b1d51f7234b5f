"""What all tests share: nothing is skipped where everything should be installed, and a place for what they start."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of a thousand interpreters compiles everything anew

if TYPE_CHECKING:
    from tests.leaks import Place


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ORCHESTRATOR_TESTS_SKIP_NOTHING=1 a skipped test is a failed one."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("ORCHESTRATOR_TESTS_SKIP_NOTHING") == "1":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and nothing may be: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def own_place_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where this pytest process may leave things, and nobody else does; see `tests.leaks.nothing_is_left`."""
    from tests.leaks import own_place  # noqa: PLC0415 - most tests start nothing, and need not wait for its imports

    tmp_path_factory.getbasetemp()  # where it always is
    with own_place() as place:
        yield place
