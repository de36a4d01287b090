"""Plain SQL over both drivers and inside a transaction: values of one form, as the tables declare them."""

from collections.abc import Iterator

import pytest
from sqlalchemy import JSON, Boolean, DateTime

from registry.database.database import Database
from registry.database.reader import Reader, open_reader, reader_over
from registry.database.table import Table
from registry.database.times import UtcDateTime
from registry.entities import BaseModel
from registry.records.models import BaseModelRow
from registry.settings import Settings


@pytest.fixture(params=["driver", "transaction"])
def reader(request: pytest.FixtureRequest, database: Database, settings: Settings) -> Iterator[Reader]:
    """A reader of each kind, of each database."""
    if request.param == "driver":
        with open_reader(settings) as opened:
            yield opened
    else:
        with database.read() as session:
            yield reader_over(session)


def test_a_column_that_no_list_has_is_given_as_its_table_declares_it(pico: BaseModel, reader: Reader) -> None:
    (row,) = reader.rows("SELECT modules, files, created_at, hidden_size FROM base_model")
    assert row["modules"] == {path: list(shape) for path, shape in pico.modules.items()}
    assert [file["path"] for file in row["files"]] == [file.path for file in pico.files]
    assert (row["created_at"], row["hidden_size"]) == (pico.created_at, pico.hidden_size)


def test_values_are_bound_whatever_they_hold(pico: BaseModel, reader: Reader) -> None:
    wanted = "SELECT name FROM base_model WHERE name = ?"
    assert reader.rows(wanted, ("pico",)) == [{"name": "pico"}]
    assert reader.rows(wanted, ("' OR '1'='1",)) == []


def test_a_transaction_reads_its_own_changes(database: Database, pico: BaseModel) -> None:
    with database.write() as session:
        session.get_one(BaseModelRow, pico.id).licence = "mit"
        assert reader_over(session).rows("SELECT licence FROM base_model") == [{"licence": "mit"}]


def test_columns_of_one_name_are_of_one_type_in_all_tables() -> None:
    # SQLite gives values as it keeps them, so a reader tells their type by the column's name.
    converted = (JSON, Boolean, DateTime, UtcDateTime)
    kinds: dict[str, set[object]] = {}
    for table in Table.metadata.tables.values():
        for column in table.columns:
            kind = next((kind for kind in converted if isinstance(column.type, kind)), None)
            kinds.setdefault(column.name, set()).add(kind)
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}
