"""A pytest plugin for the SDK's suite: resets the server before each test, writes down how each one went.

Runs in the suite's own environment, which has neither this repository's `tests` nor the server: standard library only.
"""

import json
import os
import re
import urllib.request
from pathlib import Path

import pytest

DOOR = os.environ["CONFORMANCE_DOOR"]
REPORT = Path(os.environ["CONFORMANCE_REPORT"])
ONLY: dict[str, str] = json.loads(os.environ["CONFORMANCE_ONLY"])
results: dict[str, dict[str, str]] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if is_wanted(item)]


def is_wanted(item: pytest.Item) -> bool:
    patterns = [pattern for path, pattern in ONLY.items() if item.nodeid.partition("::")[0].endswith(path)]
    return all(re.search(pattern, item.name) for pattern in patterns)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    urllib.request.urlopen(urllib.request.Request(DOOR, data=item.nodeid.encode(), method="POST"), timeout=30).close()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test that fails in its setup or teardown has failed; one that is skipped counts as neither."""
    if report.when != "call" and report.passed:
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    reason = crash.message.splitlines()[0][:300] if crash and report.failed else ""
    known = results.get(report.nodeid)
    if known is None or known["outcome"] != "failed":
        results[report.nodeid] = {"outcome": report.outcome, "reason": reason}


def pytest_sessionfinish() -> None:
    REPORT.write_text(json.dumps(results))
