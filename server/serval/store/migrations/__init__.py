"""Alembic's migrations of the key database; `serval.store.upgrade` runs them."""

from typing import Final

# The revision of the last one: a database that has it needs nothing of this.
NEWEST: Final = "0002"
