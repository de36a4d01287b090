"""The zoo's settings, read once from the environment. Opens nothing.

Not a pydantic dataclass, as requests and configurations are: every command reads settings, `zoo adapters ls`
takes 0.08 s, and importing pydantic 0.11 s more (medians of 20, benchmarks/LOG.md). A refusal is the same
error in the same words: variable, allowed values, value.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from formats.errors import InvalidField
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
#: Of the cache in front of the artifact store, if ZOO_CACHE_SIZE_BYTES is unset.
_CACHE_SIZE_BYTES = 100 * 10**9
_MOST_BYTES = 2**63 - 1
#: Variables that drivers of artifact stores read, by name or by prefix, which ends in "_".
_OF_DRIVERS = (
    "AWS_",
    "FSSPEC_",
    "GOOGLE_",
    "AZURE_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
)
#: More threads than any machine has processors.
_MOST_THREADS = 4096
_COMPUTE_DTYPES = ("float32", "bfloat16")
_LEAST_SAMPLING_S, _MOST_SAMPLING_S = 0.1, 3600.0


class SettingOutOfRange(InvalidField, InvalidSetting):
    """An environment variable is outside its allowed values; of a URL no more is shown than how it begins."""

    code = "ZOO-E235"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings; URLs are not in `repr`, because they may contain passwords."""

    #: Folder of everything that no other setting locates.
    home: Path
    #: `sqlite:///<absolute path>` or `postgresql+psycopg://…`.
    database_url: str = field(repr=False)
    #: Folder or fsspec URL under which artifacts are stored by digest.
    artifact_root: str
    #: Bytes of verified copies that are kept beside an artifact store, but for those in use.
    cache_size_bytes: int = _CACHE_SIZE_BYTES
    #: What the driver of a remote artifact store reads from the environment, keys among it.
    driver_variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Celery broker; None means that jobs run without one.
    broker_url: str | None = field(default=None, repr=False)
    #: MLflow's tracking URI.
    mlflow_tracking_uri: str = field(repr=False)
    #: After this time without a heartbeat, another worker may claim a job.
    lease_s: float = 60.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read ZOO_HOME, ZOO_DATABASE_URL, ZOO_ARTIFACT_ROOT, ZOO_CACHE_SIZE_BYTES, ZOO_BROKER_URL,
        ZOO_LEASE_S and MLFLOW_TRACKING_URI.

        A variable that is unset or empty takes its default, which lies in ZOO_HOME.

        Raises:
            SettingOutOfRange: the database is of another kind than SQLite and PostgreSQL, the broker of
                another than Redis, Valkey and RabbitMQ, the lease or ZOO_SYSTEM_METRICS no number of
                seconds, the cache's size no number of bytes, ZOO_THREADS no number, or ZOO_COMPUTE_DTYPE
                no dtype to compute in.
        """
        home = _home(environ.get("ZOO_HOME", ""))
        # Checked here, before any job starts.
        threads(environ)
        stated_compute_dtype(environ)
        system_metrics_every_s(environ)
        artifact_root = environ.get("ZOO_ARTIFACT_ROOT", "") or str(home / "artifacts")
        return cls(
            home=home,
            database_url=_database_url(environ.get("ZOO_DATABASE_URL", ""), home=home),
            artifact_root=artifact_root,
            cache_size_bytes=_cache_size_bytes(environ.get("ZOO_CACHE_SIZE_BYTES", "")),
            driver_variables=_driver_variables(environ) if "://" in artifact_root else {},
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
        SettingOutOfRange: it is not a number of threads.
    """
    text = environ.get("ZOO_THREADS", "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _MOST_THREADS):
        raise SettingOutOfRange(
            "ZOO_THREADS", f"a whole number in 1..{_MOST_THREADS}, or unset for all cores", text
        )
    return int(text)


def stated_compute_dtype(environ: Mapping[str, str]) -> str | None:
    """What ZOO_COMPUTE_DTYPE has jobs compute in; None for what is fastest on their machine.

    Raises:
        SettingOutOfRange: it is neither float32 nor bfloat16.
    """
    text = environ.get("ZOO_COMPUTE_DTYPE", "")
    if text and text not in _COMPUTE_DTYPES:
        allowed = f"{' or '.join(_COMPUTE_DTYPES)}, or unset for the faster of them"
        raise SettingOutOfRange("ZOO_COMPUTE_DTYPE", allowed, text)
    return text or None


def system_metrics_every_s(environ: Mapping[str, str]) -> float | None:
    """How many seconds apart a job samples the machine's load, by ZOO_SYSTEM_METRICS; None: not at all.

    Raises:
        SettingOutOfRange: it is not a number of seconds.
    """
    text = environ.get("ZOO_SYSTEM_METRICS", "")
    if not text:
        return None
    seconds = _number(text)
    if not _LEAST_SAMPLING_S <= seconds <= _MOST_SAMPLING_S:
        allowed = f"a number from {_LEAST_SAMPLING_S:g} to {_MOST_SAMPLING_S:g} (seconds), or unset for none"
        raise SettingOutOfRange("ZOO_SYSTEM_METRICS", allowed, text)
    return seconds


def _number(text: str) -> float:
    """The number that a text is; 0 where it is none, which no setting allows."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _broker_url(text: str) -> str | None:
    if not text:
        return None
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in _BROKER_SCHEMES:
        valkey = " (Valkey's is redis://)" if scheme.startswith("valkey") else ""
        raise SettingOutOfRange(
            "ZOO_BROKER_URL",
            f"a URL that starts with {'://, '.join(_BROKER_SCHEMES)}://{valkey}, or unset: workers then take"
            " jobs from the database",
            _beginning(text),
        )
    _require_port(text, variable="ZOO_BROKER_URL")
    return text


def _lease_s(text: str) -> float:
    if not text:
        return 60.0
    lease_s = _number(text)
    if not 1.0 <= lease_s <= 86_400.0:
        raise SettingOutOfRange("ZOO_LEASE_S", "a number from 1 to 86400 (seconds), or unset for 60", text)
    return lease_s


def _cache_size_bytes(text: str) -> int:
    if not text:
        return _CACHE_SIZE_BYTES
    if not (text.isascii() and text.isdecimal() and int(text[:20]) <= _MOST_BYTES):
        allowed = f"a whole number of bytes from 0, or unset for {_CACHE_SIZE_BYTES:,}"
        raise SettingOutOfRange("ZOO_CACHE_SIZE_BYTES", allowed, text)
    return int(text)


def _driver_variables(environ: Mapping[str, str]) -> dict[str, str]:
    prefixes = tuple(entry for entry in _OF_DRIVERS if entry.endswith("_"))
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(prefixes) or name.upper() in _OF_DRIVERS
    }


def _home(text: str) -> Path:
    if text:
        home = Path(text).expanduser().absolute()
        if found := sorted(set(_MEANT_OTHERWISE) & set(str(home))):
            allowed = (
                f"a folder whose path has none of {' '.join(_MEANT_OTHERWISE)} (it has {' '.join(found)}):"
                " MLflow's database in it is named by a URL, where these mean something else"
            )
            raise SettingOutOfRange("ZOO_HOME", allowed, str(home))
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
    allowed = f"a URL that starts with sqlite:/// or postgresql://, or unset for {home / 'zoo.db'}"
    raise SettingOutOfRange("ZOO_DATABASE_URL", allowed, _beginning(text))


def _beginning(url: str) -> str:
    """What may be repeated of a URL: the rest may hold a password."""
    scheme, colon, _ = url.partition(":")
    return f"{scheme}{colon}…"


def _require_port(url: str, *, variable: str) -> None:
    try:
        urlsplit(url).port  # noqa: B018 - reading it checks it
    except ValueError as error:
        allowed = "a URL whose port is a number in 0..65535"
        raise SettingOutOfRange(variable, allowed, _beginning(url)) from error


def _require_plain_account(url: str) -> None:
    """Refuse a URL that the server's driver would split differently than the user meant, and then print."""
    in_account = url.count("@") <= urlsplit(url).netloc.count("@") <= 1
    if not in_account or _NOT_ENCODED.search(url):
        allowed = (
            "a URL whose user name and password have @ as %40, / as %2F, : as %3A, ? as %3F, # as %23 and"
            " % as %25"
        )
        raise SettingOutOfRange("ZOO_DATABASE_URL", allowed, _beginning(url))


def _sqlite_url(path: str) -> str:
    if not path or path.startswith(":memory:") or "?" in path:
        allowed = (
            "a URL of a database file, without options: several processes share it, so it cannot be in memory"
        )
        raise SettingOutOfRange("ZOO_DATABASE_URL", allowed, f"{_SQLITE_PREFIX}{path}")
    return f"{_SQLITE_PREFIX}{Path(path).expanduser().absolute()}"
