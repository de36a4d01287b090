"""The services of compose.yaml that others need, as processes on this machine, once for all tests here."""

import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.brokers import valkey_binary
from tests.deployment.composition import ROOT, Machine, services
from tests.services import postgres_server

_STARTS_WITHIN_S = 90.0


@pytest.fixture(scope="package")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """PostgreSQL, broker and MLflow run, and the migration step has ended."""
    server = postgres_server()
    made = ("zoo", "mlflow")
    server.run("CREATE DATABASE zoo")
    server.run(_without_comments((ROOT / "deployment" / "create_mlflow_database.sql").read_text()))
    names = ("BROKER_PASSWORD", "MLFLOW_PASSWORD", "MLFLOW_SECRET_KEY")
    here = Machine(
        folder=tmp_path_factory.mktemp("machine"),
        secrets={
            "POSTGRES_PASSWORD": server.password,
            **{name: secrets.token_hex(24) for name in names},
        },
        postgres_folder=server.folder,
        broker_port=_free_port(),
        mlflow_port=_free_port(),
    )
    for file, place in (
        ("broker.conf", "/etc/valkey.conf"),
        ("mlflow_auth.ini", "/etc/mlflow_auth.ini"),
    ):
        here.put(f"deployment/{file}", place)
    started = [_broker(here), here.start("mlflow")]
    try:
        migrated = here.run(*here.argv("migrate"), service="migrate")
        assert migrated.returncode == 0, migrated.stderr
        _wait_for_mlflow(here)
        yield here
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for database in made:
            server.run(f"DROP DATABASE {database} WITH (FORCE)")


def _broker(here: Machine) -> "subprocess.Popen[bytes]":
    """The image's own settings, with its data folder and port on this machine."""
    data = here.folder / "data"
    data.mkdir()
    with (here.folder / "etc" / "valkey.conf").open("a") as configuration:
        configuration.write(f"\ndir {data}\nport {here.broker_port}\nbind 127.0.0.1\n")
    binary = here.folder / "bin" / "valkey-server"
    binary.parent.mkdir()
    binary.symlink_to(valkey_binary())
    environment = here.environment("broker")
    environment["PATH"] = f"{binary.parent}{os.pathsep}{environment['PATH']}"
    return subprocess.Popen(
        here.argv("broker"), env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )


def _wait_for_mlflow(here: Machine) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    check = services()["mlflow"]["healthcheck"]["test"][1:]
    while here.run(*map(here.here, check), service="mlflow").returncode != 0:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _without_comments(sql: str) -> str:
    return re.sub(r"^--.*$", "", sql, flags=re.MULTILINE)
