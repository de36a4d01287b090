"""compose.yaml as Docker Compose reads it, and its commands as plain processes on this machine."""

import functools
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")

#: `${NAME}`, `${NAME:?what to do}`, `${NAME:-default}`; `$$` is a dollar sign
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?P<rule>:?[-?][^}]*)?\}")
_POSTGRES = re.compile(r"@postgres:5432/(\w+)")


@functools.cache
def loaded() -> dict[str, Any]:
    """The file with its anchors and merges resolved, but not its variables."""
    parsed: dict[str, Any] = yaml.safe_load(TEXT)
    return parsed


def services() -> dict[str, dict[str, Any]]:
    """The services by name."""
    found: dict[str, dict[str, Any]] = loaded()["services"]
    return found


def environments() -> Iterator[tuple[str, str, str]]:
    """Service, variable and value of every environment."""
    for service, settings in services().items():
        for name, value in settings.get("environment", {}).items():
            yield service, name, str(value)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """This machine's replacements for the containers' folders, secrets and addresses."""

    #: In place of every folder of a container.
    folder: Path
    #: The content of a user's `.env`.
    secrets: Mapping[str, str]
    #: The folder of PostgreSQL's socket.
    postgres_folder: Path
    broker_port: int
    mlflow_port: int

    def argv(self, service: str) -> list[str]:
        """The service's command."""
        return [self.here(part) for part in services()[service]["command"]]

    def environment(self, service: str) -> dict[str, str]:
        """The service's variables, and those that a process on this machine needs."""
        own = {name: self.here(value) for of, name, value in environments() if of == service}
        return {
            "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            **own,
            "HOME": str(self.folder),
        }

    def run(self, *argv: str, service: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end in the service's environment."""
        return subprocess.run(
            argv,
            env=self.environment(service) | extra,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, service: str) -> "subprocess.Popen[bytes]":
        """Start the service's own command."""
        return subprocess.Popen(
            self.argv(service),
            env=self.environment(service),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def put(self, file: str, container_path: str) -> None:
        """Write a configuration file to the path at which the commands read it."""
        path = self.folder / container_path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.here((ROOT / file).read_text()))

    def here(self, text: str) -> str:
        """A part of a command or a value, with secrets, paths and addresses replaced."""
        filled = VARIABLE.sub(lambda found: self.secrets[found["name"]], text).replace("$$", "$")
        filled = _POSTGRES.sub(rf"@/\1?host={self.postgres_folder}", filled)
        for there, here in (
            ("@broker:6379", f"@127.0.0.1:{self.broker_port}"),
            ("http://mlflow:5000", f"http://127.0.0.1:{self.mlflow_port}"),
            (":5000", f":{self.mlflow_port}"),
            ("--port=5000", f"--port={self.mlflow_port}"),
            ("0.0.0.0", "127.0.0.1"),  # noqa: S104 - what is replaced, not what is listened on
            ("/var/lib/", f"{self.folder}/var/lib/"),
            ("/etc/", f"{self.folder}/etc/"),
        ):
            filled = filled.replace(there, here)
        return filled
