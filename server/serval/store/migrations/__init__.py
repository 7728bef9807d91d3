"""Alembic's migrations of the key database; `serval.store.database` runs them."""
