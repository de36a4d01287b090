"""Datasets say which files they were read from and what these were taken for."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; datasets that are there are stored as they were given."""
    op.add_column("dataset_version", sa.Column("reading", sa.JSON, nullable=False, server_default="{}"))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("dataset_version", "reading")
