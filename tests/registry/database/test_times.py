"""Times are aware and UTC on both databases, and come from the database's own clock."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import select
from sqlalchemy.exc import StatementError

from registry.database.database import Database
from registry.database.times import database_now
from registry.records.models import AdapterRow

NOON = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)


def test_a_time_is_read_back_as_the_same_moment_in_utc(database: Database) -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    with database.write() as session:
        session.add(AdapterRow(name="bio", created_at=elsewhere))
    with database.read() as session:
        read = session.scalars(select(AdapterRow.created_at)).one()
    assert read == NOON
    assert read.tzinfo is UTC


def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="must have a time zone"), database.write() as session:
        session.add(AdapterRow(name="bio", created_at=NOON.replace(tzinfo=None)))


def test_the_databases_clock_is_right_and_can_look_ahead(database: Database) -> None:
    with database.read() as session:
        now, later, earlier = session.execute(
            select(database_now(), database_now(90.5), database_now(-60))
        ).one()
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=30)
    assert abs((later - now).total_seconds() - 90.5) < 1
    assert abs((now - earlier).total_seconds() - 60) < 1


def test_stored_times_compare_with_the_clock(database: Database) -> None:
    with database.write() as session:
        session.add(AdapterRow(name="past", created_at=datetime.now(UTC) - timedelta(seconds=30)))
        session.add(AdapterRow(name="future", created_at=datetime.now(UTC) + timedelta(seconds=30)))
    with database.read() as session:
        past = session.scalars(select(AdapterRow.name).where(AdapterRow.created_at < database_now())).all()
    assert past == ["past"]
