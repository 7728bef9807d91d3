"""Teams of keys, budgets, and costs."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_day")
_COUNTS = (
    ("usage", "cost"),
    ("daily_tokens", "cost"), ("daily_tokens", "held_tokens"), ("daily_tokens", "held_cost"),
)  # fmt: skip


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
    for table, name in _COUNTS:
        op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop them."""
    for table, name in _COUNTS:
        op.drop_column(table, name)
    op.drop_column("usage", "team")
    for name in ("team", "budgets"):
        op.drop_column("api_keys", name)
    op.drop_table("budget_notices")
    op.drop_table("teams")
