"""Adapters are searched: narrow rows, labels, words and newest scores with indexes."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_TO_MODULES = "fk_adapter_version_modules_id"
_LABELS = (("domain", "domains"), ("tag", "tags"))
_LISTS = ("target_modules", "modules", "domains", "tags")
#: What `ls` sorts by; an index each, which a page is read along.
_SORTED = ("created_at", "size_bytes", "parameter_count", "rank", "effect_score")

#: Copied as they are, in this order.
_KEPT = (
    *("id", "adapter_id", "version", "base_id", "rank", "alpha", "use_rslora", "rank_pattern"),
    *("alpha_pattern", "parameter_count", "size_bytes", "dtype", "licence", "description", "origin"),
    *("job_id", "parameters", "weights_digest", "content_digest", "files", "effect_score"),
    *("compute_dtype", "warnings", "state", "created_at"),
)

#: The rows of a list of labels, in each database's words.
_ELEMENTS = {
    "sqlite": "SELECT v.id, '{kind}', e.value, e.key FROM adapter_version v, json_each(v.{column}) e",
    "postgresql": "SELECT v.id, '{kind}', e.label, e.position - 1 FROM adapter_version v,"
    " json_array_elements_text(v.{column}) WITH ORDINALITY AS e(label, position)",
}
_LIST = {
    "sqlite": "COALESCE((SELECT json_group_array(label) FROM (SELECT label FROM adapter_label"
    " WHERE adapter_version_id = v.id AND kind = '{kind}' ORDER BY position)), '[]')",
    "postgresql": "COALESCE((SELECT json_agg(label ORDER BY position) FROM adapter_label"
    " WHERE adapter_version_id = v.id AND kind = '{kind}'), '[]')",
}

#: Full text search in each database's words. The words are separated, folded and unique already.
_SEARCH = {
    "sqlite": """
CREATE VIRTUAL TABLE adapter_search USING fts5(
    words, content='adapter_text', content_rowid='adapter_version_id',
    tokenize='unicode61 remove_diacritics 0', detail='none'
)
;;
CREATE TRIGGER adapter_text_added AFTER INSERT ON adapter_text BEGIN
    INSERT INTO adapter_search(rowid, words) VALUES (new.adapter_version_id, new.words);
END
;;
CREATE TRIGGER adapter_text_removed AFTER DELETE ON adapter_text BEGIN
    INSERT INTO adapter_search(adapter_search, rowid, words)
    VALUES ('delete', old.adapter_version_id, old.words);
END
;;
CREATE TRIGGER adapter_text_changed AFTER UPDATE ON adapter_text BEGIN
    INSERT INTO adapter_search(adapter_search, rowid, words)
    VALUES ('delete', old.adapter_version_id, old.words);
    INSERT INTO adapter_search(rowid, words) VALUES (new.adapter_version_id, new.words);
END
""",
    "postgresql": """
CREATE INDEX ix_adapter_text_words ON adapter_text
USING gin (array_to_tsvector(string_to_array(words, ' ')))
""",
}


def upgrade() -> None:
    """Move lists out of the rows of adapters, and add what is searched; what the rows held stays."""
    _create_modules()
    _fill_modules()
    _keep_labels()
    if _dialect() == "sqlite":
        _copy_adapter_table(
            ["modules_id"],
            "(SELECT m.id FROM adapter_modules m WHERE m.modules = v.modules"
            " AND m.target_modules = v.target_modules)",
        )
    else:
        op.execute("ALTER TABLE adapter_version ADD COLUMN modules_id INTEGER")
        op.execute(
            "UPDATE adapter_version v SET modules_id = m.id FROM adapter_modules m"
            " WHERE m.modules::text = v.modules::text AND m.target_modules::text = v.target_modules::text"
        )
        op.alter_column("adapter_version", "modules_id", nullable=False)
        op.create_foreign_key(_TO_MODULES, "adapter_version", "adapter_modules", ["modules_id"], ["id"])
        for column in _LISTS:
            op.drop_column("adapter_version", column)
    for column in _SORTED:
        op.create_index(f"ix_adapter_version_{column}", "adapter_version", [column, "id", "state"])
    _create_labels()
    _create_text()
    _point_scores()


def downgrade() -> None:
    """Move the lists back, and drop what was added."""
    for index in ("ix_evaluation_newest", "ix_evaluation_score", "ix_evaluation_adapter_version_id"):
        op.drop_index(index, "evaluation")
    op.drop_column("evaluation", "is_newest")
    op.drop_column("evaluation", "adapter_version_id")
    if _dialect() == "sqlite":
        op.execute("DROP TABLE adapter_search")
    op.drop_table("adapter_text")
    for column in _SORTED:
        op.drop_index(f"ix_adapter_version_{column}", "adapter_version")
    of_modules = "(SELECT m.{column} FROM adapter_modules m WHERE m.id = v.modules_id)"
    lists = {column: of_modules.format(column=column) for column in ("target_modules", "modules")}
    lists |= {column: _LIST[_dialect()].format(kind=kind) for kind, column in _LABELS}
    if _dialect() == "sqlite":
        op.execute("CREATE TEMPORARY TABLE kept_list AS SELECT v.id, " + _columns(lists))
        op.drop_table("adapter_label")
        _copy_adapter_table(
            list(lists), ", ".join(lists), source="adapter_version v JOIN kept_list USING (id)"
        )
        op.execute("DROP TABLE kept_list")
    else:
        for column, value in lists.items():
            op.execute(f"ALTER TABLE adapter_version ADD COLUMN {column} JSON")
            op.execute(f"UPDATE adapter_version v SET {column} = {value}")  # noqa: S608
            op.alter_column("adapter_version", column, nullable=False)
        op.drop_column("adapter_version", "modules_id")
        op.drop_table("adapter_label")
    op.drop_table("adapter_modules")


def _dialect() -> str:
    return op.get_bind().dialect.name


def _columns(values: dict[str, str]) -> str:
    return ", ".join(f"{value} AS {column}" for column, value in values.items()) + " FROM adapter_version v"


def _create_modules() -> None:
    op.create_table(
        "adapter_modules",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("target_modules", sa.JSON, nullable=False),
        sa.Column("modules", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_adapter_modules"),
        sa.UniqueConstraint("digest", name="uq_adapter_modules_digest"),
    )


def _fill_modules() -> None:
    as_text = {"sqlite": "{}", "postgresql": "{}::text"}[_dialect()].format
    insert = sa.text("INSERT INTO adapter_modules (digest, target_modules, modules) VALUES (:d, :t, :m)")
    distinct = f"SELECT DISTINCT {as_text('target_modules')}, {as_text('modules')} FROM adapter_version"  # noqa: S608
    known: set[str] = set()
    for targets, modules in op.get_bind().execute(sa.text(distinct)).all():
        content = {"target_modules": json.loads(targets), "modules": json.loads(modules)}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        # One list may stand there in two spellings, which only writers of other databases would make.
        spelt = digest if digest not in known else f"{digest}:{len(known)}"
        known.add(spelt)
        op.get_bind().execute(insert, {"d": spelt, "t": targets, "m": modules})


def _keep_labels() -> None:
    op.execute(
        "CREATE TEMPORARY TABLE kept_label (id INTEGER, kind VARCHAR, label VARCHAR, position INTEGER)"
    )
    for kind, column in _LABELS:
        elements = _ELEMENTS[_dialect()].format(kind=kind, column=column)
        op.execute(f"INSERT INTO kept_label {elements}")


def _create_labels() -> None:
    op.create_table(
        "adapter_label",
        sa.Column("adapter_version_id", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("adapter_version_id", "kind", "label", name="pk_adapter_label"),
        sa.ForeignKeyConstraint(
            ["adapter_version_id"], ["adapter_version.id"], name="fk_adapter_label_adapter_version_id"
        ),
        sa.CheckConstraint("kind IN ('domain', 'tag')", name=op.f("ck_adapter_label_kind")),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO adapter_label (adapter_version_id, kind, label, position)"
        " SELECT id, kind, label, MIN(position) FROM kept_label GROUP BY id, kind, label"
    )
    op.execute("DROP TABLE kept_label")
    op.create_index(
        "ix_adapter_label_kind_label_adapter_version_id",
        "adapter_label",
        ["kind", "label", "adapter_version_id"],
    )


def _create_text() -> None:
    op.create_table(
        "adapter_text",
        sa.Column("adapter_version_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("words", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("adapter_version_id", name="pk_adapter_text"),
        sa.ForeignKeyConstraint(
            ["adapter_version_id"], ["adapter_version.id"], name="fk_adapter_text_adapter_version_id"
        ),
    )
    for statement in _SEARCH[_dialect()].split(";;"):
        op.execute(statement)
    connection = op.get_bind()
    labels: dict[int, list[str]] = {}
    for version_id, label in connection.execute(
        sa.text("SELECT adapter_version_id, label FROM adapter_label ORDER BY kind, position")
    ):
        labels.setdefault(version_id, []).append(label)
    rows = connection.execute(
        sa.text(
            "SELECT v.id, n.name, v.description FROM adapter_version v JOIN adapter n ON n.id = v.adapter_id"
        )
    ).all()
    texts = [
        {"id": row.id, "words": _words((row.name, *labels.get(row.id, ()), row.description))} for row in rows
    ]
    if texts:
        connection.execute(
            sa.text("INSERT INTO adapter_text (adapter_version_id, words) VALUES (:id, :words)"), texts
        )


def _words(texts: Iterable[str]) -> str:
    folded = unicodedata.normalize("NFKD", " ".join(texts)).casefold()
    bare = "".join(character for character in folded if not unicodedata.combining(character))
    return " ".join(dict.fromkeys(word[:64] for word in re.findall(r"[^\W_]+", bare)))


def _point_scores() -> None:
    """Scores point to the version that has them, and the newest of each task and metric is marked."""
    op.execute(
        "ALTER TABLE evaluation ADD COLUMN adapter_version_id INTEGER"
        " CONSTRAINT fk_evaluation_adapter_version_id REFERENCES adapter_version (id)"
    )
    op.execute("ALTER TABLE evaluation ADD COLUMN is_newest BOOLEAN NOT NULL DEFAULT false")
    op.execute(
        "UPDATE evaluation SET adapter_version_id = v.id"
        " FROM adapter n JOIN adapter_version v ON v.adapter_id = n.id"
        " WHERE evaluation.subject = 'adapter:' || n.name || '@' || v.version"
    )
    op.execute(
        "UPDATE evaluation SET is_newest = true WHERE id IN (SELECT id FROM (SELECT id, ROW_NUMBER() OVER"
        " (PARTITION BY subject, task, metric ORDER BY created_at DESC, id DESC) AS age FROM evaluation)"
        " AS ranked WHERE age = 1)"
    )
    newest: dict[str, Any] = {
        "sqlite_where": sa.text("is_newest"),
        "postgresql_where": sa.text("is_newest"),
    }
    op.create_index("ix_evaluation_adapter_version_id", "evaluation", ["adapter_version_id"])
    op.create_index(
        "ix_evaluation_newest", "evaluation", ["subject", "task", "metric"], unique=True, **newest
    )
    op.create_index(
        "ix_evaluation_score", "evaluation", ["task", "metric", "value", "adapter_version_id"], **newest
    )


def _copy_adapter_table(columns: Iterable[str], values: str, *, source: str = "adapter_version v") -> None:
    """The table anew with other columns: SQLite adds no column that must point somewhere.

    No row may point to a table that is dropped, so those that do are set aside meanwhile.
    """
    op.execute("CREATE TEMPORARY TABLE kept_alias AS SELECT * FROM alias WHERE kind = 'adapter'")
    op.execute("DELETE FROM alias WHERE kind = 'adapter'")
    op.execute("CREATE TEMPORARY TABLE kept_expert AS SELECT * FROM expert")
    op.execute("DELETE FROM expert")
    _create_next_adapter_version(columns)
    kept = ", ".join(_KEPT)
    op.execute(
        f"INSERT INTO next_adapter_version ({kept}, {', '.join(columns)})"  # noqa: S608 - constants of ours
        f" SELECT {kept}, {values} FROM {source}"
    )
    op.drop_table("adapter_version")
    # In this order, what points to the table by its name points to the new one.
    op.rename_table("next_adapter_version", "adapter_version")
    op.create_index("ix_adapter_version_base_id", "adapter_version", ["base_id"])
    op.create_index("ix_adapter_version_weights_digest", "adapter_version", ["weights_digest"])
    for table in ("alias", "expert"):
        op.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}")  # noqa: S608 - constants of ours
        op.execute(f"DROP TABLE kept_{table}")


def _create_next_adapter_version(columns: Iterable[str]) -> None:
    """As revisions 0002 and 0004 have it, with either the lists or where they are."""
    has_lists = "modules_id" not in columns
    op.create_table(
        "next_adapter_version",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("adapter_id", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("base_id", sa.Integer, nullable=False),
        *([] if has_lists else [sa.Column("modules_id", sa.Integer, nullable=False)]),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("alpha", sa.Double, nullable=False),
        sa.Column("use_rslora", sa.Boolean, nullable=False),
        sa.Column("rank_pattern", sa.JSON, nullable=False),
        sa.Column("alpha_pattern", sa.JSON, nullable=False),
        *([sa.Column(column, sa.JSON, nullable=False) for column in _LISTS] if has_lists else []),
        sa.Column("parameter_count", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("dtype", sa.String, nullable=False),
        sa.Column("licence", sa.String, nullable=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("job_id", sa.Integer, nullable=True),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("weights_digest", sa.String, nullable=False),
        sa.Column("content_digest", sa.String, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("effect_score", sa.Double, nullable=True),
        sa.Column("compute_dtype", sa.String, nullable=True),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_adapter_version"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name="fk_adapter_version_adapter_id"),
        sa.ForeignKeyConstraint(["base_id"], ["base_model.id"], name="fk_adapter_version_base_id"),
        *(
            []
            if has_lists
            else [sa.ForeignKeyConstraint(["modules_id"], ["adapter_modules.id"], name=_TO_MODULES)]
        ),
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
