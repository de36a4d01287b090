"""The tables beside an adapter version: what many share, and what it is searched by."""

from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from registry.database.table import Table

#: Kinds of labels.
DOMAIN, TAG = "domain", "tag"


class AdapterModulesRow(Table):
    """A list of target modules and the modules they mean; adapters of one kind share it."""

    __tablename__ = "adapter_modules"

    id: Mapped[int] = mapped_column(primary_key=True)
    # Of both lists, so that equal ones are stored once.
    digest: Mapped[str] = mapped_column(unique=True)
    target_modules: Mapped[list[Any]]
    modules: Mapped[list[Any]]


class AdapterLabelRow(Table):
    """A domain or a tag of one version."""

    __tablename__ = "adapter_label"
    __table_args__ = (
        CheckConstraint(f"kind IN ('{DOMAIN}', '{TAG}')", name="kind"),
        Index("ix_adapter_label_kind_label_adapter_version_id", "kind", "label", "adapter_version_id"),
        {"sqlite_with_rowid": False},
    )

    adapter_version_id: Mapped[int] = mapped_column(ForeignKey("adapter_version.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]


class AdapterTextRow(Table):
    """The words that text search finds one version by: its name, labels, description and card."""

    __tablename__ = "adapter_text"

    adapter_version_id: Mapped[int] = mapped_column(
        ForeignKey("adapter_version.id"), primary_key=True, autoincrement=False
    )
    # Folded and unique; the databases' own indexes of them are made by the migration.
    words: Mapped[str] = mapped_column(Text)
