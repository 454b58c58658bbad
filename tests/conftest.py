from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# A slow minute of the machine is no failure.
settings.register_profile("meshmq", deadline=None)
settings.load_profile("meshmq")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """In CI, as root, a test that needs root has no excuse to be skipped."""
    outcome = yield
    report = outcome.get_result()
    needs_root = item.get_closest_marker("root") is not None
    if report.skipped and needs_root and os.geteuid() == 0 and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped as root in CI: {report.longrepr}"
