"""Jobs and their journals."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables, those first that others point to."""
    _create_job()
    _create_job_event()


def downgrade() -> None:
    """Drop them in the opposite order, and with them everything they hold."""
    for table in (
        "job_event",
        "job",
    ):
        op.drop_table(table)


def _create_job() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=True),
        sa.Column("message", sa.Text, nullable=True),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("spec_digest", sa.String, nullable=False),
        sa.Column("idempotency_key", sa.String, nullable=True),
        sa.Column("queue", sa.String, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.String, nullable=True),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("outcome", sa.JSON, nullable=False),
        sa.Column("log_path", sa.String, nullable=True),
        sa.Column("run_id", sa.String, nullable=True),
        sa.Column("event_count", sa.Integer, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("ready_at", _TIME, nullable=True),
        sa.Column("hinted_at", _TIME, nullable=True),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.Column("lease_until", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sa.UniqueConstraint("idempotency_key", name="uq_job_idempotency_key"),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_job_state")
        ),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_job_lease")),
        sa.CheckConstraint("state <> 'running' OR owner IS NOT NULL", name=op.f("ck_job_owner")),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (reason IS NOT NULL)",
            name=op.f("ck_job_reason"),
        ),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_job_finished_at"),
        ),
        sa.CheckConstraint(
            "attempt >= 0 AND attempt <= max_attempts AND attempt <= fence", name=op.f("ck_job_attempt")
        ),
        sa.CheckConstraint("max_attempts > 0", name=op.f("ck_job_max_attempts")),
    )
    op.create_index("ix_job_spec_digest", "job", ["spec_digest"])
    op.create_index("ix_job_state_queue_priority", "job", ["state", "queue", "priority"])


def _create_job_event() -> None:
    op.create_table(
        "job_event",
        sa.Column("job_id", sa.Integer, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "sequence", name="pk_job_event"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_job_event_job_id"),
    )
