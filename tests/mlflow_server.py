"""A real MLflow server for tests: killed, restarted, frozen, or behind a proxy that loses its answers."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from workers.commands.ui import server_environment
from workers.processes.parent_watchdog import die_with_parent

_STARTS_WITHIN_S = 60.0
_CHUNK_BYTES = 65536


class MlflowServer:
    """One store in `folder`, and the server process in front of it, on a port that stays the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        parent_pid = os.getpid()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "mlflow", "server", "--workers", "1"),
                *("--host", "127.0.0.1", "--port", str(self.port)),
                *("--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"),
                *("--artifacts-destination", str(self._folder / "artifacts")),
            ],
            cwd=self._folder,
            env=server_environment(os.environ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent_pid),
        )
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"MLflow did not start; its exit code is {self._process.poll()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the server and its children, as a crash does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Freeze the server: its socket stays open and nothing is answered."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the server continue, and answer the requests that came meanwhile."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310 - http
                return bool(answer.status == 200)
        except OSError:
            return False


class LossyLine:
    """A proxy that forwards requests to a server and returns `answers_left` answers; the next one is lost."""

    def __init__(self, server_port: int) -> None:
        self.answers_left = 0
        self.lost = 0
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Close the port."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._server_port))
        in_answer = False
        with client, server, contextlib.suppress(OSError):
            for source, content in _arriving(client, server):
                if source is server and not in_answer:
                    if self.answers_left == 0:
                        self.lost += 1
                        return
                    self.answers_left -= 1
                in_answer = source is server
                (client if in_answer else server).sendall(content)


def _arriving(*sockets: socket.socket) -> Iterator[tuple[socket.socket, bytes]]:
    while True:
        for source in select.select(sockets, [], [])[0]:
            content = source.recv(_CHUNK_BYTES)
            if not content:
                return
            yield source, content
