"""The commands of compose.yaml as plain processes, on a real PostgreSQL, Valkey and MLflow."""

import contextlib
import http.client
import json
from base64 import b64encode
from pathlib import Path

from tests.deployment.composition import Machine, services
from workers.tracking.spool import Run


def test_the_doctor_finds_no_fault_in_it(machine: Machine) -> None:
    asked = machine.run("zoo", "doctor", "--json", service="relay")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    findings = [row for row in json.loads(asked.stdout) if row["check"] not in ("disk", "artifacts", "gpu")]
    assert {row["state"] for row in findings} == {"ok"}
    said = " ".join(row["finding"] for row in findings)
    assert all(
        fact in said for fact in ("accepts writes", "Valkey", "noeviction", "append-only file on", "client")
    )
    assert not any(secret in asked.stdout + asked.stderr for secret in machine.secrets.values())


def test_the_health_check_of_a_worker_holds(machine: Machine) -> None:
    check = services()["worker-cpu"]["healthcheck"]["test"][1:]
    assert machine.run(*check, service="worker-cpu").returncode == 0
    assert (
        machine.run(*check, service="worker-cpu", ZOO_DATABASE_URL="postgresql://127.0.0.1:9/x").returncode
        == 6
    )


def test_the_broker_requires_the_password(machine: Machine) -> None:
    url = f"redis://127.0.0.1:{machine.broker_port}/0"
    asked = machine.run("zoo", "doctor", "--json", service="relay", ZOO_BROKER_URL=url)
    assert asked.returncode == 1
    assert "refuses the account" in asked.stdout


def test_the_password_is_in_no_command_line(machine: Machine) -> None:
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _is_readable(path)]
    assert running
    assert not [line for line in running if machine.secrets["BROKER_PASSWORD"].encode() in line]


def _is_readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:  # it has ended since it was listed
        return False
    return True


def _status(machine: Machine, path: str, **headers: str) -> int:
    """MLflow's answer without an account, or to the account in the headers."""
    connection = http.client.HTTPConnection("127.0.0.1", machine.mlflow_port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status


def test_mlflow_requires_an_account(machine: Machine) -> None:
    assert _status(machine, "/health") == 200
    assert _status(machine, "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default") == 401
    assert _status(machine, "/ajax-api/3.0/jobs/search") == 401


def test_mlflow_answers_to_its_own_names_alone(machine: Machine) -> None:
    account = f"zoo:{machine.secrets['MLFLOW_PASSWORD']}".encode()
    known = {"Authorization": f"Basic {b64encode(account).decode()}"}
    path = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert _status(machine, path, **known) == 200
    assert _status(machine, path, **known, Host="evil.example") == 403
    # The default allows every private address.
    assert _status(machine, path, **known, Host=f"192.168.0.7:{machine.mlflow_port}") == 403


def test_what_a_worker_measured_is_shipped_with_its_account(machine: Machine) -> None:
    home = Path(machine.environment("worker-cpu")["ZOO_HOME"])
    run = Run(home / "jobs" / "999")
    run.begin(experiment="zoo/train", name="bio", parameters={"rank": 8}, tags={"zoo.job": 999})
    run.metrics({"train/loss": 0.5}, step=1)
    (machine.folder / "report.txt").write_text("fine")
    run.artifact(machine.folder / "report.txt")
    run.end("FINISHED")
    run.close()
    shipped = machine.run("zoo", "runs", "ship", "--json", service="worker-cpu")
    assert shipped.returncode == 0, shipped.stderr
    assert ("999", 0) in [(row["job"], row["pending_bytes"]) for row in json.loads(shipped.stdout)]
    kept = list((machine.folder / "var" / "lib" / "mlflow" / "artifacts").rglob("report.txt"))
    assert [file.read_text() for file in kept] == ["fine"]
