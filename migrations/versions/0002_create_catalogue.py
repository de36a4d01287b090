"""Base models, adapters, datasets, compositions, their aliases and evaluations."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables, those first that others point to."""
    _create_base_model()
    _create_adapter()
    _create_adapter_version()
    _create_dataset()
    _create_dataset_version()
    _create_composition()
    _create_composition_version()
    _create_expert()
    _create_alias()
    _create_alias_move()
    _create_evaluation()


def downgrade() -> None:
    """Drop them in the opposite order, and with them everything they hold."""
    for table in (
        "evaluation",
        "alias_move",
        "alias",
        "expert",
        "composition_version",
        "composition",
        "dataset_version",
        "dataset",
        "adapter_version",
        "adapter",
        "base_model",
    ):
        op.drop_table(table)


def _create_base_model() -> None:
    op.create_table(
        "base_model",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("weights_digest", sa.String, nullable=False),
        sa.Column("config_digest", sa.String, nullable=False),
        sa.Column("tokenizer_digest", sa.String, nullable=False),
        sa.Column("chat_template_digest", sa.String, nullable=True),
        sa.Column("architecture", sa.String, nullable=False),
        sa.Column("hidden_size", sa.Integer, nullable=False),
        sa.Column("layer_count", sa.Integer, nullable=False),
        sa.Column("vocabulary_size", sa.Integer, nullable=False),
        sa.Column("dtype", sa.String, nullable=False),
        sa.Column("parameter_count", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("licence", sa.String, nullable=True),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("revision", sa.String, nullable=True),
        sa.Column("modules", sa.JSON, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_base_model"),
        sa.UniqueConstraint("name", name="uq_base_model_name"),
        sa.UniqueConstraint("digest", name="uq_base_model_digest"),
        sa.CheckConstraint("state IN ('active', 'deleted')", name=op.f("ck_base_model_state")),
    )


def _create_adapter() -> None:
    op.create_table(
        "adapter",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_adapter"),
        sa.UniqueConstraint("name", name="uq_adapter_name"),
    )


def _create_adapter_version() -> None:
    op.create_table(
        "adapter_version",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("adapter_id", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("base_id", sa.Integer, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("alpha", sa.Double, nullable=False),
        sa.Column("use_rslora", sa.Boolean, nullable=False),
        sa.Column("rank_pattern", sa.JSON, nullable=False),
        sa.Column("alpha_pattern", sa.JSON, nullable=False),
        sa.Column("target_modules", sa.JSON, nullable=False),
        sa.Column("modules", sa.JSON, nullable=False),
        sa.Column("parameter_count", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("dtype", sa.String, nullable=False),
        sa.Column("domains", sa.JSON, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("licence", sa.String, nullable=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("job_id", sa.Integer, nullable=True),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("weights_digest", sa.String, nullable=False),
        sa.Column("content_digest", sa.String, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("effect_score", sa.Double, nullable=True),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_adapter_version"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name="fk_adapter_version_adapter_id"),
        sa.ForeignKeyConstraint(["base_id"], ["base_model.id"], name="fk_adapter_version_base_id"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_adapter_version_job_id"),
        sa.UniqueConstraint("adapter_id", "version", name="uq_adapter_version_adapter_id_version"),
        sa.UniqueConstraint(
            "adapter_id", "content_digest", name="uq_adapter_version_adapter_id_content_digest"
        ),
        sa.UniqueConstraint("job_id", name="uq_adapter_version_job_id"),
        sa.CheckConstraint("version > 0", name=op.f("ck_adapter_version_version")),
        sa.CheckConstraint("rank > 0", name=op.f("ck_adapter_version_rank")),
        sa.CheckConstraint("size_bytes > 0", name=op.f("ck_adapter_version_size_bytes")),
        sa.CheckConstraint("state IN ('active', 'deleted')", name=op.f("ck_adapter_version_state")),
    )
    op.create_index("ix_adapter_version_base_id", "adapter_version", ["base_id"])
    op.create_index("ix_adapter_version_weights_digest", "adapter_version", ["weights_digest"])


def _create_dataset() -> None:
    op.create_table(
        "dataset",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dataset"),
        sa.UniqueConstraint("name", name="uq_dataset_name"),
    )


def _create_dataset_version() -> None:
    op.create_table(
        "dataset_version",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("dataset_id", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("domain", sa.String, nullable=True),
        sa.Column("split", sa.String, nullable=True),
        sa.Column("format", sa.String, nullable=False),
        sa.Column("licence", sa.String, nullable=True),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dataset_version"),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name="fk_dataset_version_dataset_id"),
        sa.UniqueConstraint("dataset_id", "version", name="uq_dataset_version_dataset_id_version"),
        sa.UniqueConstraint("dataset_id", "digest", name="uq_dataset_version_dataset_id_digest"),
        sa.CheckConstraint("version > 0", name=op.f("ck_dataset_version_version")),
        sa.CheckConstraint("rows > 0", name=op.f("ck_dataset_version_rows")),
        sa.CheckConstraint("split IN ('train', 'eval')", name=op.f("ck_dataset_version_split")),
        sa.CheckConstraint("state IN ('active', 'deleted')", name=op.f("ck_dataset_version_state")),
    )
    op.create_index("ix_dataset_version_digest", "dataset_version", ["digest"])


def _create_composition() -> None:
    op.create_table(
        "composition",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_composition"),
        sa.UniqueConstraint("name", name="uq_composition_name"),
    )


def _create_composition_version() -> None:
    op.create_table(
        "composition_version",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("composition_id", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("method", sa.String, nullable=False),
        sa.Column("base_id", sa.Integer, nullable=False),
        sa.Column("head_config", sa.JSON, nullable=False),
        sa.Column("head_digest", sa.String, nullable=False),
        sa.Column("content_digest", sa.String, nullable=False),
        sa.Column("report", sa.JSON, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("job_id", sa.Integer, nullable=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_composition_version"),
        sa.ForeignKeyConstraint(["base_id"], ["base_model.id"], name="fk_composition_version_base_id"),
        sa.ForeignKeyConstraint(
            ["composition_id"], ["composition.id"], name="fk_composition_version_composition_id"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_composition_version_job_id"),
        sa.UniqueConstraint(
            "composition_id", "version", name="uq_composition_version_composition_id_version"
        ),
        sa.UniqueConstraint(
            "composition_id", "content_digest", name="uq_composition_version_composition_id_content_digest"
        ),
        sa.UniqueConstraint("job_id", name="uq_composition_version_job_id"),
        sa.CheckConstraint("version > 0", name=op.f("ck_composition_version_version")),
        sa.CheckConstraint("state IN ('active', 'deleted')", name=op.f("ck_composition_version_state")),
    )
    op.create_index("ix_composition_version_base_id", "composition_version", ["base_id"])


def _create_expert() -> None:
    op.create_table(
        "expert",
        sa.Column("composition_version_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("adapter_version_id", sa.Integer, nullable=False),
        sa.Column("weights_digest", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("composition_version_id", "position", name="pk_expert"),
        sa.ForeignKeyConstraint(
            ["adapter_version_id"], ["adapter_version.id"], name="fk_expert_adapter_version_id"
        ),
        sa.ForeignKeyConstraint(
            ["composition_version_id"], ["composition_version.id"], name="fk_expert_composition_version_id"
        ),
        sa.UniqueConstraint("composition_version_id", "name", name="uq_expert_composition_version_id_name"),
        sa.CheckConstraint("position >= 0", name=op.f("ck_expert_position")),
    )
    op.create_index("ix_expert_adapter_version_id", "expert", ["adapter_version_id"])


def _create_alias() -> None:
    op.create_table(
        "alias",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("adapter_version_id", sa.Integer, nullable=True),
        sa.Column("dataset_version_id", sa.Integer, nullable=True),
        sa.Column("composition_version_id", sa.Integer, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_alias"),
        sa.ForeignKeyConstraint(
            ["adapter_version_id"], ["adapter_version.id"], name="fk_alias_adapter_version_id"
        ),
        sa.ForeignKeyConstraint(
            ["composition_version_id"], ["composition_version.id"], name="fk_alias_composition_version_id"
        ),
        sa.ForeignKeyConstraint(
            ["dataset_version_id"], ["dataset_version.id"], name="fk_alias_dataset_version_id"
        ),
        sa.UniqueConstraint("kind", "name", "alias", name="uq_alias_kind_name_alias"),
        sa.CheckConstraint(
            "(kind = 'adapter') = (adapter_version_id IS NOT NULL)"
            " AND (kind = 'dataset') = (dataset_version_id IS NOT NULL)"
            " AND (kind = 'composition') = (composition_version_id IS NOT NULL)",
            name=op.f("ck_alias_target"),
        ),
        sa.CheckConstraint("kind IN ('adapter', 'dataset', 'composition')", name=op.f("ck_alias_kind")),
    )


def _create_alias_move() -> None:
    op.create_table(
        "alias_move",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=True),
        sa.Column("previous", sa.Integer, nullable=True),
        sa.Column("moved_by", sa.String, nullable=False),
        sa.Column("moved_at", _TIME, nullable=False),
        sa.Column("reason", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_alias_move"),
    )
    op.create_index("ix_alias_move_kind_name_alias", "alias_move", ["kind", "name", "alias"])


def _create_evaluation() -> None:
    op.create_table(
        "evaluation",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("task", sa.String, nullable=False),
        sa.Column("metric", sa.String, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("standard_error", sa.Double, nullable=True),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("dataset_digest", sa.String, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("settings_digest", sa.String, nullable=False),
        sa.Column("job_id", sa.Integer, nullable=True),
        sa.Column("run_id", sa.String, nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_evaluation"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_evaluation_job_id"),
        sa.UniqueConstraint(
            "subject", "task", "metric", "dataset_digest", "settings_digest", name="uq_evaluation_identity"
        ),
        sa.CheckConstraint("n > 0", name=op.f("ck_evaluation_n")),
        sa.CheckConstraint("standard_error >= 0", name=op.f("ck_evaluation_standard_error")),
    )
    op.create_index("ix_evaluation_dataset_digest", "evaluation", ["dataset_digest"])
    op.create_index("ix_evaluation_job_id", "evaluation", ["job_id"])
