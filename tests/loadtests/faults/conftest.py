"""Recovery times, printed at the end of the run."""

import pytest

from serval_testkit.recovery import Recoveries

_ALL = pytest.StashKey[Recoveries]()


@pytest.fixture
def recovery(request: pytest.FixtureRequest) -> Recoveries:
    return request.config.stash.setdefault(_ALL, Recoveries())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(_ALL, Recoveries()).seconds
    if found:
        terminalreporter.section("seconds to recover")
        for what, seconds in found:
            terminalreporter.write_line(f"| {what} | {seconds:.2f} |")
