"""Base models have warnings, as adapters and datasets have."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of the bases that are there, nothing was found."""
    op.add_column("base_model", sa.Column("warnings", sa.JSON, nullable=False, server_default="[]"))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("base_model", "warnings")
