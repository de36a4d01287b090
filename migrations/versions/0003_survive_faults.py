"""Budgets for what ends an attempt, deadlines, reasons as a closed list, and the workers there are."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_REASONS = (
    *("ok", "error", "poison", "cuda_oom", "host_oom", "deadline"),
    *("disk_full", "cancelled", "bad_input", "infra"),
)

#: Column -> its type and check. SQLite adds a check to a table only together with a column, so the check of
#: reasons comes with the worker's name.
_COLUMNS = {
    "losses": ("INTEGER NOT NULL DEFAULT 0", "losses", "losses >= 0 AND losses <= fence"),
    "memory_cuts": (
        "INTEGER NOT NULL DEFAULT 0",
        "memory_cuts",
        "memory_cuts >= 0 AND memory_cuts <= fence",
    ),
    "worker": (
        "VARCHAR",
        "known_reason",
        f"reason IN ({', '.join(repr(reason) for reason in _REASONS)})",
    ),
}


def upgrade() -> None:
    """Add the columns to jobs, and the table of workers."""
    for column, (kind, check, condition) in _COLUMNS.items():
        op.execute(
            f"ALTER TABLE job ADD COLUMN {column} {kind} CONSTRAINT ck_job_{check} CHECK ({condition})"
        )
    op.add_column("job", sa.Column("deadline_at", _TIME, nullable=True))
    # What a broker was told is read from the broker itself now.
    op.drop_column("job", "hinted_at")
    op.create_table(
        "worker",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("process_id", sa.Integer, nullable=False),
        sa.Column("queues", sa.JSON, nullable=False),
        sa.Column("gpu", sa.String, nullable=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_worker"),
        sa.CheckConstraint("state IN ('working', 'draining')", name=op.f("ck_worker_state")),
    )


def downgrade() -> None:
    """Drop what was added, and with it what it holds."""
    op.drop_table("worker")
    op.add_column("job", sa.Column("hinted_at", _TIME, nullable=True))
    op.drop_column("job", "deadline_at")
    for column in _COLUMNS:
        op.drop_column("job", column)
