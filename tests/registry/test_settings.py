"""Settings: their variables, their defaults, and what is refused."""

import json
from pathlib import Path

import pytest

from formats.errors import InvalidField
from registry.errors import InvalidSetting
from registry.settings import Settings


def test_with_nothing_set_everything_lies_in_the_users_data_folder() -> None:
    settings = Settings.from_env({})
    assert settings.home.is_absolute()
    assert settings.home.name == "adapter-zoo"
    assert settings.database_url == f"sqlite:///{settings.home / 'zoo.db'}"
    assert settings.artifact_root == str(settings.home / "artifacts")
    assert settings.mlflow_tracking_uri == f"sqlite:///{settings.home / 'mlflow.db'}"
    assert settings.broker_url is None


def test_each_variable_is_read(tmp_path: Path) -> None:
    settings = Settings.from_env(
        {
            "ZOO_HOME": str(tmp_path),
            "ZOO_DATABASE_URL": "postgresql+psycopg://zoo@db/zoo",
            "ZOO_ARTIFACT_ROOT": "s3://bucket/zoo",
            "ZOO_BROKER_URL": "redis://localhost/0",
            "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        }
    )
    assert settings.home == tmp_path
    assert settings.database_url == "postgresql+psycopg://zoo@db/zoo"
    assert settings.artifact_root == "s3://bucket/zoo"
    assert settings.broker_url == "redis://localhost/0"
    assert settings.mlflow_tracking_uri == "http://mlflow:5000"
    assert settings.sqlite_path is None


@pytest.mark.parametrize(("text", "size_bytes"), [("", 100 * 10**9), ("0", 0), ("2500", 2500)])
def test_the_cache_has_a_size_in_bytes(text: str, size_bytes: int) -> None:
    assert Settings.from_env({"ZOO_CACHE_SIZE_BYTES": text}).cache_size_bytes == size_bytes


@pytest.mark.parametrize("text", ["-1", "1e9", "10GB", "nan", "9" * 30])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="ZOO_CACHE_SIZE_BYTES"):
        Settings.from_env({"ZOO_CACHE_SIZE_BYTES": text})


def test_a_job_is_given_the_keys_of_a_remote_store_alone(tmp_path: Path) -> None:
    environ = {"ZOO_HOME": str(tmp_path), "AWS_SECRET_ACCESS_KEY": "hidden", "HF_TOKEN": "other"}
    assert Settings.from_env(environ).driver_variables == {}
    remote = Settings.from_env({**environ, "ZOO_ARTIFACT_ROOT": "s3://bucket/zoo"})
    assert Settings.from_json(remote.to_json()).driver_variables == {"AWS_SECRET_ACCESS_KEY": "hidden"}
    assert "hidden" not in repr(remote)


def test_an_empty_variable_is_one_that_is_not_set(tmp_path: Path) -> None:
    empty = dict.fromkeys(["ZOO_DATABASE_URL", "ZOO_ARTIFACT_ROOT", "ZOO_BROKER_URL"], "")
    home = {"ZOO_HOME": str(tmp_path)}
    assert Settings.from_env({**home, **empty}) == Settings.from_env(home)


@pytest.mark.parametrize("prefix", ["postgres://", "postgresql://", "postgresql+psycopg://"])
def test_every_way_to_write_postgresql_means_the_same_driver(prefix: str) -> None:
    settings = Settings.from_env({"ZOO_DATABASE_URL": f"{prefix}zoo@db/zoo"})
    assert settings.database_url == "postgresql+psycopg://zoo@db/zoo"


def test_paths_are_made_absolute_and_a_tilde_is_the_users_folder() -> None:
    settings = Settings.from_env({"ZOO_HOME": "~/zoo", "ZOO_DATABASE_URL": "sqlite:///zoo.db"})
    assert settings.home == Path.home() / "zoo"
    assert settings.sqlite_path == Path.cwd() / "zoo.db"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://root:secret@db/zoo",
        "zoo.db",
        "sqlite:///:memory:",
        "sqlite:///",
        "sqlite:///zoo.db?mode=memory",
        "postgresql://zoo:secret@127.0.0.1:xx/zoo",
    ],
)
def test_a_database_that_cannot_be_shared_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match="ZOO_DATABASE_URL") as refusal:
        Settings.from_env({"ZOO_DATABASE_URL": url})
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "http://:secret@broker",
        "valkey://:secret@broker/0",
        "memory://",
        "redis://:secret@host:xx/0",
    ],
)
def test_an_unusable_broker_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match="ZOO_BROKER_URL") as refusal:
        Settings.from_env({"ZOO_BROKER_URL": url})
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["redis://", "rediss://b:1/0", "redis+socket:///run/valkey", "amqp://u:p@b//"]
)
def test_a_broker_that_celery_speaks_to_is_taken(url: str) -> None:
    assert Settings.from_env({"ZOO_BROKER_URL": url}).broker_url == url


@pytest.mark.parametrize("text", ["many", "0", "-1", "1.5", "9" * 20, "²"])
def test_threads_that_are_no_number_are_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="ZOO_THREADS"):
        Settings.from_env({"ZOO_THREADS": text})


@pytest.mark.parametrize("password", ["sec@ret", "1/sec@ret", "1?sec", "1#sec", "sec%ret", "sec%00"])
def test_a_password_that_would_be_taken_apart_and_printed_is_refused(password: str) -> None:
    with pytest.raises(InvalidSetting, match=r"ZOO_DATABASE_URL.*%40") as refusal:
        Settings.from_env({"ZOO_DATABASE_URL": f"postgresql://zoo:{password}@db/zoo"})
    assert "sec" not in str(refusal.value)
    assert Settings.from_env({"ZOO_DATABASE_URL": "postgresql://zoo:s%40t%25@db/zoo"}).database_url


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "ZOO_THREADS",
            "many",
            "ZOO_THREADS must be a whole number in 1..4096, or unset for all cores, got 'many'",
        ),
        (
            "ZOO_COMPUTE_DTYPE",
            "fp16",
            "ZOO_COMPUTE_DTYPE must be float32 or bfloat16, or unset for the faster of them, got 'fp16'",
        ),
        (
            "ZOO_LEASE_S",
            "0",
            "ZOO_LEASE_S must be a number from 1 to 86400 (seconds), or unset for 60, got '0'",
        ),
        (
            "ZOO_DATABASE_URL",
            "postgresql://zoo:secret@127.0.0.1:xx/zoo",
            "ZOO_DATABASE_URL must be a URL whose port is a number in 0..65535, got 'postgresql:…'",
        ),
    ],
)
def test_a_refusal_is_said_as_that_of_a_request_is(variable: str, value: str, said: str) -> None:
    with pytest.raises(InvalidField) as refusal:
        Settings.from_env({variable: value})
    assert (str(refusal.value), refusal.value.field) == (said, variable)
    assert (refusal.value.code, refusal.value.exit_code) == ("ZOO-E235", 2)


def test_passwords_do_not_show() -> None:
    settings = Settings.from_env(
        {
            "ZOO_DATABASE_URL": "postgresql://zoo:secret@db/zoo",
            "ZOO_BROKER_URL": "redis://:secret@broker/0",
            "MLFLOW_TRACKING_URI": "https://user:secret@mlflow",
        }
    )
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b"])
def test_a_home_that_a_url_cannot_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"ZOO_HOME must be a folder whose path has none of \? # %"):
        Settings.from_env({"ZOO_HOME": str(tmp_path / name)})


def test_settings_come_through_a_pipe_as_they_were() -> None:
    given = {"ZOO_HOME": "/zoo", "ZOO_LEASE_S": "2.5", "ZOO_DATABASE_URL": "postgresql://zoo:secret@db/zoo"}
    settings = Settings.from_env(given)
    assert settings.broker_url is None
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
