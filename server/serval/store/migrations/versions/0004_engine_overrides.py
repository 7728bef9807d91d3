"""Orders of administrators about engines."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "engine_overrides",
        sa.Column("url", sa.Text, primary_key=True),
        sa.Column("weight", sa.Text),
        sa.Column("drained", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("engine_overrides")
