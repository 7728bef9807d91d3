"""Alembic's migrations of the key database; `serval.store.upgrade` runs them."""

from typing import Final

# The newest revision: a database that has it needs no migration.
NEWEST: Final = "0007"
