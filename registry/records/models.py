"""The tables of the records, with every invariant that a database can enforce. Knows no files."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.database.table import Table
from registry.database.times import database_now
from registry.jobs.models import JobRow
from registry.records.adapter_models import DOMAIN, TAG, AdapterLabelRow, AdapterModulesRow

#: Columns of adapter versions that lists are sorted by.
SORTED_COLUMNS = ("created_at", "size_bytes", "parameter_count", "rank", "effect_score")

_RECORD_STATES = "state IN ('active', 'deleted')"


class BaseModelRow(Table):
    """A base model."""

    __tablename__ = "base_model"
    __table_args__ = (CheckConstraint(_RECORD_STATES, name="state"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[str] = mapped_column(unique=True)
    weights_digest: Mapped[str]
    config_digest: Mapped[str]
    tokenizer_digest: Mapped[str]
    chat_template_digest: Mapped[str | None]
    architecture: Mapped[str]
    hidden_size: Mapped[int]
    layer_count: Mapped[int]
    vocabulary_size: Mapped[int]
    dtype: Mapped[str]
    parameter_count: Mapped[int] = mapped_column(BigInteger)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    licence: Mapped[str | None]
    source: Mapped[str]
    revision: Mapped[str | None]
    modules: Mapped[dict[str, Any]]
    files: Mapped[list[Any]]
    warnings: Mapped[list[Any]]
    state: Mapped[str] = mapped_column(insert_default="active")
    created_at: Mapped[datetime] = mapped_column(insert_default=database_now())


class AdapterRow(Table):
    """The name that an adapter's versions share."""

    __tablename__ = "adapter"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(insert_default=database_now())


class AdapterVersionRow(Table):
    """One version: what it computes never changes, its labels, licence, description and state may."""

    __tablename__ = "adapter_version"
    __table_args__ = (
        UniqueConstraint("adapter_id", "version"),
        UniqueConstraint("adapter_id", "content_digest"),
        CheckConstraint("version > 0", name="version"),
        CheckConstraint("rank > 0", name="rank"),
        CheckConstraint("size_bytes > 0", name="size_bytes"),
        CheckConstraint(_RECORD_STATES, name="state"),
        # A page of a list is read along one of these.
        *(Index(f"ix_adapter_version_{column}", column, "id", "state") for column in SORTED_COLUMNS),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"))
    version: Mapped[int]
    base_id: Mapped[int] = mapped_column(ForeignKey("base_model.id"), index=True)
    modules_id: Mapped[int] = mapped_column(ForeignKey("adapter_modules.id"))
    rank: Mapped[int]
    alpha: Mapped[float]
    use_rslora: Mapped[bool]
    rank_pattern: Mapped[dict[str, Any]]
    alpha_pattern: Mapped[dict[str, Any]]
    parameter_count: Mapped[int] = mapped_column(BigInteger)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    dtype: Mapped[str]
    licence: Mapped[str | None]
    description: Mapped[str] = mapped_column(Text)
    origin: Mapped[str]
    # A job takes effect once, however often it ran.
    job_id: Mapped[int | None] = mapped_column(ForeignKey(JobRow.id), unique=True)
    parameters: Mapped[dict[str, Any]]
    weights_digest: Mapped[str] = mapped_column(index=True)
    # Weights, base and configuration together: registering the same again finds this row.
    content_digest: Mapped[str]
    files: Mapped[list[Any]]
    effect_score: Mapped[float | None]
    # Dtype of its training; None if it was not trained here.
    compute_dtype: Mapped[str | None]
    warnings: Mapped[list[Any]]
    state: Mapped[str] = mapped_column(insert_default="active")
    created_at: Mapped[datetime] = mapped_column(insert_default=database_now())

    adapter: Mapped[AdapterRow] = relationship(lazy="joined", innerjoin=True)
    base: Mapped[BaseModelRow] = relationship(lazy="joined", innerjoin=True)
    touched: Mapped[AdapterModulesRow] = relationship(lazy="joined", innerjoin=True)
    labels: Mapped[list[AdapterLabelRow]] = relationship(
        lazy="selectin", order_by=AdapterLabelRow.position, cascade="all, delete-orphan"
    )

    @property
    def domains(self) -> list[str]:
        """Its domains in the order given."""
        return self._labels(DOMAIN)

    @domains.setter
    def domains(self, labels: list[str]) -> None:
        self._set_labels(DOMAIN, labels)

    @property
    def tags(self) -> list[str]:
        """Its tags in the order given."""
        return self._labels(TAG)

    @tags.setter
    def tags(self, labels: list[str]) -> None:
        self._set_labels(TAG, labels)

    def _labels(self, kind: str) -> list[str]:
        found = sorted((row for row in self.labels if row.kind == kind), key=lambda row: row.position)
        return [row.label for row in found]

    def _set_labels(self, kind: str, labels: list[str]) -> None:
        had = {row.label: row for row in self.labels if row.kind == kind}
        for position, label in enumerate(labels):
            if label in had:
                had[label].position = position
            else:
                self.labels.append(AdapterLabelRow(kind=kind, label=label, position=position))
        for label, row in had.items():
            if label not in labels:
                self.labels.remove(row)


class DatasetRow(Table):
    """The name that a dataset's versions share."""

    __tablename__ = "dataset"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(insert_default=database_now())


class DatasetVersionRow(Table):
    """One immutable version; only `state` may change."""

    __tablename__ = "dataset_version"
    __table_args__ = (
        UniqueConstraint("dataset_id", "version"),
        UniqueConstraint("dataset_id", "digest"),
        CheckConstraint("version > 0", name="version"),
        CheckConstraint("examples > 0", name="examples"),
        CheckConstraint("split IN ('train', 'eval')", name="split"),
        CheckConstraint(_RECORD_STATES, name="state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    version: Mapped[int]
    digest: Mapped[str] = mapped_column(index=True)
    examples: Mapped[int] = mapped_column(BigInteger)
    domain: Mapped[str | None]
    split: Mapped[str | None]
    format: Mapped[str]
    licence: Mapped[str | None]
    origin: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    files: Mapped[list[Any]]
    warnings: Mapped[list[Any]]
    reading: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(insert_default="active")
    created_at: Mapped[datetime] = mapped_column(insert_default=database_now())

    dataset: Mapped[DatasetRow] = relationship(lazy="joined", innerjoin=True)


class CompositionRow(Table):
    """The name that a composition's versions share."""

    __tablename__ = "composition"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(insert_default=database_now())


class ExpertRow(Table):
    """One adapter version at its position in a composition version."""

    __tablename__ = "expert"
    __table_args__ = (
        UniqueConstraint("composition_version_id", "name"),
        CheckConstraint("position >= 0", name="position"),
    )

    composition_version_id: Mapped[int] = mapped_column(
        ForeignKey("composition_version.id"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    adapter_version_id: Mapped[int] = mapped_column(ForeignKey("adapter_version.id"), index=True)
    weights_digest: Mapped[str]

    adapter_version: Mapped[AdapterVersionRow] = relationship(lazy="joined", innerjoin=True)


class CompositionVersionRow(Table):
    """One immutable version; only `state` may change."""

    __tablename__ = "composition_version"
    __table_args__ = (
        UniqueConstraint("composition_id", "version"),
        UniqueConstraint("composition_id", "content_digest"),
        CheckConstraint("version > 0", name="version"),
        CheckConstraint(_RECORD_STATES, name="state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    composition_id: Mapped[int] = mapped_column(ForeignKey("composition.id"))
    version: Mapped[int]
    method: Mapped[str]
    base_id: Mapped[int] = mapped_column(ForeignKey("base_model.id"), index=True)
    # What only this method has.
    method_details: Mapped[dict[str, Any]]
    # Method, details, base and experts together: registering the same again finds this row.
    content_digest: Mapped[str]
    report: Mapped[dict[str, Any]]
    files: Mapped[list[Any]]
    job_id: Mapped[int | None] = mapped_column(ForeignKey(JobRow.id), unique=True)
    state: Mapped[str] = mapped_column(insert_default="active")
    created_at: Mapped[datetime] = mapped_column(insert_default=database_now())

    composition: Mapped[CompositionRow] = relationship(lazy="joined", innerjoin=True)
    base: Mapped[BaseModelRow] = relationship(lazy="joined", innerjoin=True)
    experts: Mapped[list[ExpertRow]] = relationship(lazy="selectin", order_by=ExpertRow.position)


class AliasRow(Table):
    """Where an alias points now."""

    __tablename__ = "alias"
    __table_args__ = (
        UniqueConstraint("kind", "name", "alias"),
        CheckConstraint(
            "(kind = 'adapter') = (adapter_version_id IS NOT NULL)"
            " AND (kind = 'dataset') = (dataset_version_id IS NOT NULL)"
            " AND (kind = 'composition') = (composition_version_id IS NOT NULL)",
            name="target",
        ),
        CheckConstraint("kind IN ('adapter', 'dataset', 'composition')", name="kind"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    alias: Mapped[str]
    version: Mapped[int]
    adapter_version_id: Mapped[int | None] = mapped_column(ForeignKey("adapter_version.id"))
    dataset_version_id: Mapped[int | None] = mapped_column(ForeignKey("dataset_version.id"))
    composition_version_id: Mapped[int | None] = mapped_column(ForeignKey("composition_version.id"))


class AliasMoveRow(Table):
    """One move of an alias; rows are only added."""

    __tablename__ = "alias_move"
    __table_args__ = (Index(None, "kind", "name", "alias"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    alias: Mapped[str]
    version: Mapped[int | None]
    previous: Mapped[int | None]
    moved_by: Mapped[str]
    moved_at: Mapped[datetime] = mapped_column(insert_default=database_now())
    reason: Mapped[str | None] = mapped_column(Text)


#: An index of the newest values alone, in each database's words.
_NEWEST: dict[str, Any] = {"sqlite_where": text("is_newest"), "postgresql_where": text("is_newest")}


class EvaluationRow(Table):
    """A measured value; measuring the same again replaces it."""

    __tablename__ = "evaluation"
    __table_args__ = (
        # Named by hand, because the convention's name would exceed PostgreSQL's 63 characters.
        UniqueConstraint(
            "subject", "task", "metric", "dataset_digest", "settings_digest", name="uq_evaluation_identity"
        ),
        CheckConstraint("n > 0", name="n"),
        CheckConstraint("standard_error >= 0", name="standard_error"),
        Index("ix_evaluation_newest", "subject", "task", "metric", unique=True, **_NEWEST),
        Index("ix_evaluation_score", "task", "metric", "value", "adapter_version_id", **_NEWEST),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[str]
    # The subject's, where it is an adapter: lists are filtered and sorted by its newest values.
    adapter_version_id: Mapped[int | None] = mapped_column(ForeignKey("adapter_version.id"), index=True)
    task: Mapped[str]
    metric: Mapped[str]
    value: Mapped[float]
    standard_error: Mapped[float | None]
    n: Mapped[int] = mapped_column(BigInteger)
    dataset_digest: Mapped[str] = mapped_column(index=True)
    settings: Mapped[dict[str, Any]]
    settings_digest: Mapped[str]
    files: Mapped[list[Any]]
    job_id: Mapped[int | None] = mapped_column(ForeignKey(JobRow.id), index=True)
    run_id: Mapped[str | None]
    # Of this subject, task and metric, whatever the settings and the data.
    is_newest: Mapped[bool] = mapped_column(insert_default=True)
    created_at: Mapped[datetime] = mapped_column(insert_default=database_now())
