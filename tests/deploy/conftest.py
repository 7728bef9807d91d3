"""Fixture of the deployment tests: the operators' programs."""

import pytest

from serval_testkit.operator_tools import SCRIPT, OperatorTools, ToolsMissingError, fetch_operator_tools


@pytest.fixture(scope="session")
def tools() -> OperatorTools:
    try:
        return fetch_operator_tools()
    except ToolsMissingError as error:
        pytest.skip(f"{SCRIPT} could not fetch the programs (needs Debian, its mirror and PyPI): {error}")
