"""Usage by key, model and hour."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "tool_calls", "errors")


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "usage",
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("hour", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _COUNTS),
    )
    op.create_index("usage_by_hour", "usage", ["hour"])
    op.create_table(
        "usage_writers",
        sa.Column("writer", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hour", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("usage_writers")
    op.drop_table("usage")
