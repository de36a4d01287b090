"""An unusable location of the database is an error: a zoo that looks empty would mislead."""

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from registry.database.reader import Row, open_reader
from registry.errors import DatabaseUnreachable, InvalidSetting
from registry.lists import queries
from registry.service import Registry
from registry.settings import Settings
from tests.registry.folders import write_base
from workers.checks import database

_NOBODY = 65534


@contextmanager
def without_privileges() -> Iterator[None]:
    """Run the block as another account, because root may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def locked_home() -> Iterator[Path]:
    """A folder whose permissions a test takes away."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _listed(settings: Settings) -> list[Row]:
    with open_reader(settings) as reader:
        return queries.adapters(reader)


USES: dict[str, Callable[[Settings], object]] = {
    "list": _listed,
    "open": lambda settings: Registry.open(settings).close(),
}


@pytest.fixture(params=list(USES))
def use(request: pytest.FixtureRequest) -> Callable[[Settings], object]:
    return USES[request.param]


def test_a_folder_that_is_not_there_is_not_an_empty_zoo(
    use: Callable[[Settings], object], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'gone' / 'zoo.db'}"
    with pytest.raises(InvalidSetting, match=r"mkdir -p .*gone"):
        use(Settings.from_env({"ZOO_HOME": str(tmp_path / "home"), "ZOO_DATABASE_URL": url}))


def test_a_home_that_is_a_file_is_not_an_empty_zoo(use: Callable[[Settings], object], tmp_path: Path) -> None:
    (tmp_path / "home").write_text("mine")
    with pytest.raises(InvalidSetting, match="ZOO_HOME must be a folder"):
        use(Settings.from_env({"ZOO_HOME": str(tmp_path / "home")}))


def test_a_home_that_may_not_be_written_to_is_not_an_empty_zoo(
    use: Callable[[Settings], object], locked_home: Path
) -> None:
    locked_home.chmod(0o555)
    with without_privileges(), pytest.raises(InvalidSetting, match="ZOO_HOME: this account may not write"):
        use(Settings.from_env({"ZOO_HOME": str(locked_home)}))


def test_a_home_that_may_not_be_looked_into_says_so(
    use: Callable[[Settings], object], locked_home: Path
) -> None:
    locked_home.chmod(0o000)
    with without_privileges(), pytest.raises(InvalidSetting, match=r"ZOO_HOME: .* cannot be read"):
        use(Settings.from_env({"ZOO_HOME": str(locked_home)}))


@pytest.fixture
def read_only(locked_home: Path, tmp_path: Path) -> Settings:
    """A zoo with one base that this account may read and not write."""
    settings = Settings.from_env({"ZOO_HOME": str(locked_home)})
    with Registry.open(settings) as registry:
        registry.bases.register(write_base(tmp_path / "pico"), name="pico", source="hub:zoo/pico@abc")
    (locked_home / "zoo.db").chmod(0o444)
    locked_home.chmod(0o555)
    return settings


def test_a_zoo_that_may_only_be_read_is_read(read_only: Settings) -> None:
    with without_privileges():
        with open_reader(read_only) as reader:
            assert [base["name"] for base in queries.bases(reader)] == ["pico"]
        with Registry.open(read_only) as registry:
            assert registry.bases.get("pico").name == "pico"


def test_a_zoo_that_may_only_be_read_is_not_written(read_only: Settings) -> None:
    remedy = "give this account write permission to it and its folder"
    refused = pytest.raises(DatabaseUnreachable, match=remedy)
    with without_privileges(), Registry.open(read_only) as registry, refused:
        registry.bases.remove("pico")


def test_a_database_that_another_account_writes_is_read_with_its_latest_changes(
    read_only: Settings, locked_home: Path
) -> None:
    locked_home.chmod(0o755)
    writer = sqlite3.connect(locked_home / "zoo.db", isolation_level=None)
    writer.execute("UPDATE base_model SET name = 'nano'")
    locked_home.chmod(0o555)
    with closing(writer), without_privileges(), open_reader(read_only) as reader:
        assert [base["name"] for base in queries.bases(reader)] == ["nano"]


def test_a_file_that_is_no_database_says_so(use: Callable[[Settings], object], tmp_path: Path) -> None:
    (tmp_path / "zoo.db").write_text("this is no database, whatever its name says" * 10)
    with pytest.raises(InvalidSetting, match=r"zoo\.db is not a SQLite database"):
        use(Settings.from_env({"ZOO_HOME": str(tmp_path)}))


def test_the_doctor_reports_a_missing_folder(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'gone' / 'zoo.db'}"
    settings = Settings.from_env({"ZOO_HOME": str(tmp_path / "home"), "ZOO_DATABASE_URL": url})
    (finding,) = database.check(settings)
    assert (finding.state, "mkdir -p" in finding.finding) == ("fault", True)


def test_a_home_that_was_never_made_is_an_empty_zoo(tmp_path: Path) -> None:
    assert _listed(Settings.from_env({"ZOO_HOME": str(tmp_path / "new" / "home")})) == []
