"""The base class of all tables: how constraints are named, and the column type of each Python type."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Double, MetaData, String
from sqlalchemy.orm import DeclarativeBase

from registry.database.times import UtcDateTime


class Table(DeclarativeBase):
    """The base class of all tables; constraints are named by convention, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own class attribute
        str: String,
        float: Double,
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }
