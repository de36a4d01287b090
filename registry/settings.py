"""The zoo's settings, read once from the environment. Opens nothing."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from registry.errors import InvalidSetting

#: URL prefixes that mean PostgreSQL, as users and hosting providers write them.
_POSTGRESQL_PREFIXES = ("postgresql+psycopg://", "postgresql://", "postgres://")
_SQLITE_PREFIX = "sqlite:///"
#: A percent sign that begins no encoded character, or one that no text may hold.
_NOT_ENCODED = re.compile("%(?![0-9A-Fa-f]{2})|%00")

#: Schemes of brokers, as Celery knows them: Redis and Valkey, then RabbitMQ.
_BROKER_SCHEMES = ("redis", "rediss", "redis+socket", "amqp", "amqps", "pyamqp")
#: Characters that a path inside a URL cannot hold as they are.
_MEANT_OTHERWISE = "?#%"
#: More threads than any machine has processors.
_MOST_THREADS = 4096


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings; URLs are not in `repr`, because they may contain passwords."""

    #: Folder of everything that no other setting locates.
    home: Path
    #: `sqlite:///<absolute path>` or `postgresql+psycopg://…`.
    database_url: str = field(repr=False)
    #: Folder or fsspec URL under which artifacts are stored by digest.
    artifact_root: str
    #: Celery broker; None means that jobs run without one.
    broker_url: str | None = field(default=None, repr=False)
    #: MLflow's tracking URI.
    mlflow_tracking_uri: str = field(repr=False)
    #: After this time without a heartbeat, another worker may claim a job.
    lease_s: float = 60.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read ZOO_HOME, ZOO_DATABASE_URL, ZOO_ARTIFACT_ROOT, ZOO_BROKER_URL, ZOO_LEASE_S and
        MLFLOW_TRACKING_URI.

        A variable that is unset or empty takes its default, which lies in ZOO_HOME.

        Raises:
            InvalidSetting: the database is of another kind than SQLite and PostgreSQL, the broker of another
                than Redis, Valkey and RabbitMQ, the lease no number of seconds, or ZOO_THREADS no number.
        """
        home = _home(environ.get("ZOO_HOME", ""))
        threads(environ)  # checked here, so that no job starts only to be told
        return cls(
            home=home,
            database_url=_database_url(environ.get("ZOO_DATABASE_URL", ""), home=home),
            artifact_root=environ.get("ZOO_ARTIFACT_ROOT", "") or str(home / "artifacts"),
            broker_url=_broker_url(environ.get("ZOO_BROKER_URL", "")),
            mlflow_tracking_uri=environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{home / 'mlflow.db'}",
            lease_s=_lease_s(environ.get("ZOO_LEASE_S", "")),
        )

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON types, passwords among them: for a pipe, never for a log."""
        return {**asdict(self), "home": str(self.home)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Settings":
        """The settings that `to_json` described."""
        return cls(**{**stored, "home": Path(stored["home"])})

    @property
    def sqlite_path(self) -> Path | None:
        """The database file, or None where the database is a server."""
        if not self.database_url.startswith(_SQLITE_PREFIX):
            return None
        return Path(self.database_url.removeprefix(_SQLITE_PREFIX))


def threads(environ: Mapping[str, str]) -> int | None:
    """How many threads ZOO_THREADS gives a training process; None for all cores.

    Raises:
        InvalidSetting: it is not a number of threads.
    """
    text = environ.get("ZOO_THREADS", "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _MOST_THREADS):
        raise InvalidSetting(
            f"ZOO_THREADS must be a whole number in 1..{_MOST_THREADS}, got {text!r}; unset it for all cores"
        )
    return int(text)


def _broker_url(text: str) -> str | None:
    if not text:
        return None
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in _BROKER_SCHEMES:
        # The rest is not printed, because it may contain a password.
        valkey = " (Valkey is spoken to as redis://)" if scheme.startswith("valkey") else ""
        begins = f"one that starts with {scheme!r}" if separator else "one without a scheme"
        raise InvalidSetting(
            f"ZOO_BROKER_URL must start with {'://, '.join(_BROKER_SCHEMES)}://, got {begins}{valkey};"
            " correct it, or unset it: workers then take jobs from the database"
        )
    _require_port(text, variable="ZOO_BROKER_URL")
    return text


def _lease_s(text: str) -> float:
    if not text:
        return 60.0
    try:
        lease_s = float(text)
    except ValueError:
        lease_s = 0.0
    if not 1.0 <= lease_s <= 86_400.0:
        raise InvalidSetting(
            f"ZOO_LEASE_S must be a number of seconds in 1..86400, got {text!r}; unset it for 60"
        )
    return lease_s


def _home(text: str) -> Path:
    if text:
        home = Path(text).expanduser().absolute()
        if found := sorted(set(_MEANT_OTHERWISE) & set(str(home))):
            raise InvalidSetting(
                f"ZOO_HOME must be a folder whose path has none of {' '.join(_MEANT_OTHERWISE)}, got {home}"
                f" with {' '.join(found)}: MLflow's database in it is named by a URL, where these mean"
                " something else; choose another folder"
            )
        return home
    from platformdirs import user_data_path

    return user_data_path("adapter-zoo").absolute()


def _database_url(text: str, *, home: Path) -> str:
    if not text:
        return f"{_SQLITE_PREFIX}{home / 'zoo.db'}"
    for prefix in _POSTGRESQL_PREFIXES:
        if text.startswith(prefix):
            _require_port(text, variable="ZOO_DATABASE_URL")
            _require_plain_account(text)
            return _POSTGRESQL_PREFIXES[0] + text.removeprefix(prefix)
    if text.startswith(_SQLITE_PREFIX):
        return _sqlite_url(text.removeprefix(_SQLITE_PREFIX))
    # The value is not printed, because a mistyped URL may contain a password.
    raise InvalidSetting(
        "ZOO_DATABASE_URL must start with sqlite:/// or postgresql://,"
        f" got one that starts with {text.partition(':')[0]!r}; unset it to use {home / 'zoo.db'}"
    )


def _require_port(url: str, *, variable: str) -> None:
    try:
        urlsplit(url).port  # noqa: B018 - reading it checks it
    except ValueError as error:
        raise InvalidSetting(f"{variable} has a port that is not a number in 0..65535; correct it") from error


def _require_plain_account(url: str) -> None:
    """Refuse a URL that the server's driver would split differently than the user meant, and then print."""
    in_account = url.count("@") <= urlsplit(url).netloc.count("@") <= 1
    if not in_account or _NOT_ENCODED.search(url):
        raise InvalidSetting(
            "ZOO_DATABASE_URL has a character that must be written otherwise in a user's name or password:"
            " @ as %40, / as %2F, : as %3A, ? as %3F, # as %23, % as %25"
        )


def _sqlite_url(path: str) -> str:
    if not path or path.startswith(":memory:") or "?" in path:
        raise InvalidSetting(
            f"ZOO_DATABASE_URL must name a database file, got {path!r}:"
            " several processes share it, so it cannot live in memory nor carry options"
        )
    return f"{_SQLITE_PREFIX}{Path(path).expanduser().absolute()}"
