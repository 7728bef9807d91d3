from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from serval_testkit.postgres import make_database, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """Return a function that creates an empty database on a real server and returns its URL."""
    numbers = count()
    with running_postgres() as server_url:
        yield lambda: make_database(server_url, f"serval{next(numbers)}")


@pytest.fixture(params=["sqlite", "postgresql"])
def key_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Path or URL of an empty key database, once for each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "keys.db")
    url: str = request.getfixturevalue("postgres")()
    return url
