"""Teams of keys, budgets, and costs."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_day")


def upgrade() -> None:
    """Create the tables and add the columns."""
    op.create_table(
        "teams",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.BigInteger) for name in _LIMITS),
        sa.Column("budgets", sa.Text),
    )
    op.create_table(
        "budget_notices",
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("unit", sa.Text, primary_key=True),
        sa.Column("period", sa.Text, primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True),
    )
    for name in ("team", "budgets"):
        op.add_column("api_keys", sa.Column(name, sa.Text))
    op.add_column("usage", sa.Column("team", sa.Text))
    for table in ("usage", "daily_tokens"):
        op.add_column(table, sa.Column("cost", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop them."""
    for table in ("usage", "daily_tokens"):
        op.drop_column(table, "cost")
    op.drop_column("usage", "team")
    for name in ("team", "budgets"):
        op.drop_column("api_keys", name)
    op.drop_table("budget_notices")
    op.drop_table("teams")
