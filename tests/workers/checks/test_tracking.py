"""`zoo doctor` on MLflow: its server's answers, and the runs that wait for it."""

import http.server
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from registry.settings import Settings
from tests.workers.findings import only
from workers.checks import tracking
from workers.checks.findings import FAULT, OK, WARNING
from workers.tracking.shipping import NO_TRACKING
from workers.tracking.spool import Run, Shipment, keep_shipped


@contextmanager
def answering(status: int, body: str, *, wants: str | None = None) -> Iterator[str]:
    """A web server with one answer, or 401 to a request without the `wants` header."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = wants is None or self.headers["Authorization"] == wants
            self.send_response(status if allowed else 401)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_off_is_no_fault(settings: Settings) -> None:
    assert only(tracking.check(replace(settings, mlflow_tracking_uri=NO_TRACKING))).state == OK


def test_pending_runs_are_a_warning_with_the_command_that_ships_them(settings: Settings) -> None:
    Run(settings.home / "jobs" / "1").close()
    asked = replace(settings, mlflow_tracking_uri=f"sqlite:///{settings.home / 'mlflow.db'}")
    store, waiting = tracking.check(asked)
    assert (store.state, waiting.state, waiting.fix) == (OK, WARNING, "zoo runs ship")


def test_a_server_that_accepts_and_never_answers_times_out(
    settings: Settings, hanging_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "TIMEOUT_S", 0.5)
    started = time.monotonic()
    url = f"http://zoo:secret@127.0.0.1:{hanging_port}"
    found = only(tracking.check(replace(settings, mlflow_tracking_uri=url)))
    assert time.monotonic() - started < 10
    assert (found.state, found.unreachable) == (FAULT, True)
    assert "secret" not in str(found)


def test_a_missing_server_is_unreachable(settings: Settings) -> None:
    found = only(tracking.check(replace(settings, mlflow_tracking_uri="http://127.0.0.1:9")))
    assert (found.state, found.unreachable) == (FAULT, True)


@pytest.mark.parametrize(
    ("status", "body", "state", "said"),
    [
        (200, "3.17.2", OK, "version 3.17.2"),
        (200, "3.9.0", WARNING, "known vulnerabilities"),
        (200, "<html>", FAULT, "not an MLflow server"),
        (401, "", FAULT, "does not know the account"),
        (403, "", FAULT, "refuses this machine's name"),
        (502, "", FAULT, "answers with 502"),
    ],
)
def test_the_state_of_a_server_follows_from_its_answer(
    settings: Settings, status: int, body: str, state: str, said: str
) -> None:
    with answering(status, body) as url:
        found = only(tracking.check(replace(settings, mlflow_tracking_uri=url)))
    assert found.state == state
    assert said in found.finding


def test_the_account_is_sent_along(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "zoo")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with answering(200, "3.17.2", wants="Basic em9vOnNlY3JldA==") as url:
        assert only(tracking.check(replace(settings, mlflow_tracking_uri=url))).state == OK


def test_the_account_of_the_address_is_sent_before_any_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody else")
    with answering(200, "3.17.2", wants="Basic em9vOnMvZWNyZXQ=") as url:
        asked = url.replace("://", "://zoo:s%2Fecret@")
        assert only(tracking.check(replace(settings, mlflow_tracking_uri=asked))).state == OK


def test_no_password_of_an_address_without_a_port_is_shown(settings: Settings) -> None:
    asked = replace(settings, mlflow_tracking_uri="http://zoo:secret@mlflow.invalid")
    found = only(tracking.check(asked))
    assert (found.state, found.unreachable) == (FAULT, True)
    assert "secret" not in str(found)


def _mlflow_file(settings: Settings, *statements: tuple[str, tuple[str, ...]]) -> Settings:
    """Settings whose MLflow file has the two tables that are looked at."""
    settings.home.mkdir(parents=True, exist_ok=True)
    path = settings.home / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("CREATE TABLE experiments (name TEXT, lifecycle_stage TEXT)")
        for statement in statements:
            connection.execute(*statement)
    return replace(settings, mlflow_tracking_uri=f"sqlite:///{path}")


def test_a_deleted_experiment_is_found_with_the_command_that_brings_it_back(settings: Settings) -> None:
    asked = _mlflow_file(settings, ("INSERT INTO experiments VALUES (?, ?)", ("zoo/eval", "deleted")))
    found = only(tracking.check(asked))
    assert (found.state, found.fix) == (WARNING, "zoo runs ship --restore")
    assert "zoo/eval" in found.finding


@pytest.mark.parametrize(
    ("revision", "fix"),
    [("451aebb31d03", "mlflow db upgrade"), ("ffffffffffff", "pip install --upgrade mlflow")],
)
def test_a_file_of_another_mlflow_release_is_found(revision: str, fix: str, settings: Settings) -> None:
    asked = _mlflow_file(settings, ("INSERT INTO alembic_version VALUES (?)", (revision,)))
    found = only(tracking.check(asked))
    assert found.state == FAULT
    assert found.fix is not None
    assert fix in found.fix


def test_a_refused_run_is_reported_with_the_reason_and_both_fixes(settings: Settings) -> None:
    asked = replace(settings, mlflow_tracking_uri=f"sqlite:///{settings.home / 'mlflow.db'}")
    folder = settings.home / "jobs" / "3"
    Run(folder).close()
    keep_shipped(folder, Shipment(store=asked.mlflow_tracking_uri, reason="no such name"))
    _, waiting = tracking.check(asked)
    assert "no such name" in waiting.finding
    assert waiting.fix == "zoo runs ship, or give them up: zoo runs discard 3"
