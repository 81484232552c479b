"""What tests of several folders ask for, and which of them are slow.

A test is slow that its mark says is, and one that slow.txt names: `make slow` measures all of them and rewrites it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

SLOW = Path(__file__).with_name("slow.txt")
# Seconds of processor that a test may take which is not slow; and the quickest case of a function of tests.
LIMIT, ONE = 0.3, 1.5
# Whatever they take: each scenario in each mode.
NEVER = "tests/whole/test_scenarios.py::test_equals_jax"


@pytest.fixture
def x64() -> Iterator[None]:
    """Numbers of 64 bits, where nothing else is said."""
    with jax.enable_x64(True):
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-slow", action="store_true", help="write down which tests are slow, in tests/slow.txt")


def pytest_configure(config: pytest.Config) -> None:
    # On the one process that all others report to.
    if config.getoption("--write-slow") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = set(SLOW.read_text().splitlines()) if SLOW.exists() else set()
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    began = time.process_time()
    try:
        return (yield)
    finally:
        item.user_properties.append(("seconds", time.process_time() - began))


class _Writer:
    """Gathers what each test took."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds = dict(report.user_properties).get("seconds")
        if report.when == "call" and isinstance(seconds, float):
            self.seconds.setdefault(report.nodeid.partition("[")[0], {})[report.nodeid] = seconds

    def pytest_sessionfinish(self) -> None:
        slow = []
        for function, cases in self.seconds.items():
            quickest = min(cases, key=cases.__getitem__)
            kept = {quickest} if cases[quickest] <= ONE else set()
            if function != NEVER:
                slow += [name for name, seconds in cases.items() if seconds > LIMIT and name not in kept]
        SLOW.write_text("".join(f"{name}\n" for name in sorted(slow)))
