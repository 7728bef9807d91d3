"""Share of each agent's prompts that the engine's prefix cache finds, printed at the end of the run."""

import pytest

_SHARES = pytest.StashKey[dict[str, list[tuple[int, int]]]]()


@pytest.fixture
def shares(request: pytest.FixtureRequest) -> dict[str, list[tuple[int, int]]]:
    """Tokens found and tokens of each later prompt, by agent, to be printed."""
    return request.config.stash.setdefault(_SHARES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    shares = config.stash.get(_SHARES, {})
    if shares:
        terminalreporter.section("prompt tokens that the prefix cache finds, from the second turn on")
    for agent, pairs in shares.items():
        found, tokens = (sum(column) for column in zip(*pairs, strict=True))
        terminalreporter.write_line(f"| {agent} | {found:,} of {tokens:,} | {found / tokens:.1%} |")
