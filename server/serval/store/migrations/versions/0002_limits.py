"""Limits of keys, and use of tokens by key and day."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_day")


def upgrade() -> None:
    """Add the columns of the limits and the table of daily use."""
    for name in _LIMITS:
        op.add_column("api_keys", sa.Column(name, sa.BigInteger))
    op.create_table(
        "daily_tokens",
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True),
        sa.Column("tokens", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop the table and the columns."""
    op.drop_table("daily_tokens")
    for name in _LIMITS:
        op.drop_column("api_keys", name)
