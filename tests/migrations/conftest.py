"""Real databases for every test of the migrations."""

from tests.services import database, database_url, empty_database_url, migrated_sqlite, settings

__all__ = ["database", "database_url", "empty_database_url", "migrated_sqlite", "settings"]
