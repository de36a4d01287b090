"""Evaluations keep what each example gave."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of evaluations that are there no examples were kept."""
    op.add_column("evaluation", sa.Column("files", sa.JSON, nullable=False, server_default="[]"))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("evaluation", "files")
