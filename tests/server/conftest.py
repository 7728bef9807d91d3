from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from serval_testkit.postgres import empty_database, make_database, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """Return a function that creates an empty database on a real server and returns its URL."""
    numbers = count()
    with running_postgres() as server_url:
        yield lambda: make_database(server_url, f"serval{next(numbers)}")


@pytest.fixture(scope="session")
def spare_databases() -> list[str]:
    """URLs of databases that tests have left, empty again."""
    return []


@pytest.fixture(params=["sqlite", "postgresql"])
def key_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Path or URL of an empty key database, once for each kind."""
    if request.param == "sqlite":
        yield str(tmp_path / "keys.db")
        return
    spare: list[str] = request.getfixturevalue("spare_databases")
    url = spare.pop() if spare else request.getfixturevalue("postgres")()
    yield url
    empty_database(url)
    spare.append(url)
