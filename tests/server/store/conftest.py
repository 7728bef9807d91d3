from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, delete

from serval.store.database import open_database
from serval.store.tables import batch_lines, batches, files


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def migrated_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A database with the newest schema, once for each kind; migrating takes longer than a test."""
    location = str(tmp_path_factory.mktemp("database") / "keys.db")
    if request.param == "postgresql":
        location = request.getfixturevalue("postgres")()
    engine = open_database(location)
    yield engine
    engine.dispose()


@pytest.fixture
def batch_database(migrated_database: Engine) -> Engine:
    """The same, without files and batches."""
    with migrated_database.begin() as connection:
        for table in (files, batches, batch_lines):
            connection.execute(delete(table))
    return migrated_database
