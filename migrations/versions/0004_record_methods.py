"""Methods of compositions, processes and dtype of jobs; losses and rows are called what they are."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)

#: Column -> its type and the check that comes with it, for SQLite adds a check only together with a column.
_LOST_ATTEMPTS = ("INTEGER NOT NULL DEFAULT 0", "lost_attempts >= 0 AND lost_attempts <= fence")
_LOSSES = ("INTEGER NOT NULL DEFAULT 0", "losses >= 0 AND losses <= fence")
_PROCESSES = ("INTEGER NOT NULL DEFAULT 1", "processes > 0")

#: A member of a JSON column as text, in each database's words.
_MEMBER = {"sqlite": "json_extract({column}, '$.{name}')", "postgresql": "{column} ->> '{name}'"}


def upgrade() -> None:
    """Add, move and rename columns; what they hold stays."""
    _replace_job_column("losses", by="lost_attempts", definition=_LOST_ATTEMPTS)
    _add_checked("processes", _PROCESSES)
    wanted = f"CAST({_member('spec', 'processes')} AS INTEGER)"
    op.execute(f"UPDATE job SET processes = COALESCE({wanted}, 1)")  # noqa: S608 - constants of ours
    op.add_column("job", sa.Column("compute_dtype", sa.String, nullable=True))
    op.add_column("adapter_version", sa.Column("compute_dtype", sa.String, nullable=True))
    _rename_dataset_column("rows", "examples")
    op.execute("ALTER TABLE composition_version ADD COLUMN method_details JSON NOT NULL DEFAULT '{}'")
    head = {
        "sqlite": "json_object('head', head_digest, 'config', json(head_config))",
        "postgresql": "json_build_object('head', head_digest, 'config', head_config)",
    }
    op.execute(f"UPDATE composition_version SET method_details = {head[_dialect()]}")  # noqa: S608
    op.drop_column("composition_version", "head_config")
    op.drop_column("composition_version", "head_digest")


def downgrade() -> None:
    """Move and rename the columns back, and drop those that there were none of."""
    op.execute("ALTER TABLE composition_version ADD COLUMN head_config JSON NOT NULL DEFAULT '{}'")
    op.execute("ALTER TABLE composition_version ADD COLUMN head_digest VARCHAR NOT NULL DEFAULT ''")
    config = {"sqlite": _member("method_details", "config"), "postgresql": "method_details -> 'config'"}
    op.execute(
        f"UPDATE composition_version SET head_config = COALESCE({config[_dialect()]}, '{{}}'),"  # noqa: S608
        f" head_digest = COALESCE({_member('method_details', 'head')}, '')"
    )
    op.drop_column("composition_version", "method_details")
    _rename_dataset_column("examples", "rows")
    op.drop_column("adapter_version", "compute_dtype")
    op.drop_column("job", "compute_dtype")
    op.drop_column("job", "processes")
    _replace_job_column("lost_attempts", by="losses", definition=_LOSSES)


def _dialect() -> str:
    return op.get_bind().dialect.name


def _member(column: str, name: str) -> str:
    return _MEMBER[_dialect()].format(column=column, name=name)


def _add_checked(column: str, definition: tuple[str, str]) -> None:
    kind, check = definition
    op.execute(f"ALTER TABLE job ADD COLUMN {column} {kind} CONSTRAINT ck_job_{column} CHECK ({check})")


def _replace_job_column(column: str, *, by: str, definition: tuple[str, str]) -> None:
    """A new column with the same values: SQLite renames a column, but no check."""
    _add_checked(by, definition)
    op.execute(f"UPDATE job SET {by} = {column}")  # noqa: S608 - constants of ours
    op.drop_column("job", column)


def _rename_dataset_column(before: str, after: str) -> None:
    if _dialect() == "sqlite":
        _copy_dataset_table(before, after)
        return
    op.alter_column("dataset_version", before, new_column_name=after)
    op.execute(
        "ALTER TABLE dataset_version RENAME CONSTRAINT"
        f" ck_dataset_version_{before} TO ck_dataset_version_{after}"
    )


def _copy_dataset_table(before: str, after: str) -> None:
    """The table anew: its check is the table's own, so that SQLite can neither rename nor drop it.

    No row may point to a table that is dropped, so the aliases of datasets are set aside meanwhile.
    """
    op.execute("CREATE TEMPORARY TABLE kept_alias AS SELECT * FROM alias WHERE kind = 'dataset'")
    op.execute("DELETE FROM alias WHERE kind = 'dataset'")
    _create_next_dataset_version(count=after)
    copied = "id, dataset_id, version, digest, {count}, domain, split, format, licence, origin, size_bytes,"
    copied += " files, warnings, state, created_at"
    op.execute(
        f"INSERT INTO next_dataset_version ({copied.format(count=after)})"  # noqa: S608 - constants of ours
        f" SELECT {copied.format(count=before)} FROM dataset_version"
    )
    op.drop_table("dataset_version")
    # In this order, what points to the table by its name points to the new one.
    op.rename_table("next_dataset_version", "dataset_version")
    op.create_index("ix_dataset_version_digest", "dataset_version", ["digest"])
    op.execute("INSERT INTO alias SELECT * FROM kept_alias")
    op.execute("DROP TABLE kept_alias")


def _create_next_dataset_version(*, count: str) -> None:
    """As revision 0002 has it, but for the name of the column that counts examples."""
    op.create_table(
        "next_dataset_version",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("dataset_id", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column(count, sa.BigInteger, nullable=False),
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
        sa.CheckConstraint(f"{count} > 0", name=op.f(f"ck_dataset_version_{count}")),
        sa.CheckConstraint("split IN ('train', 'eval')", name=op.f("ck_dataset_version_split")),
        sa.CheckConstraint("state IN ('active', 'deleted')", name=op.f("ck_dataset_version_state")),
    )
