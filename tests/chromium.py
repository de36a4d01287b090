"""A real Chromium without a window, driven by its own protocol over a pipe: it opens and reads pages."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "apt-get install --yes --no-install-recommends chromium"
_STARTS_WITHIN_S = 60.0
_CHUNK_BYTES = 1 << 20


class ChromiumMissing(RuntimeError):
    """No Chromium is installed."""

    def __init__(self) -> None:
        super().__init__(
            f"no Chromium is installed (looked for {', '.join(NAMES)}), and this test opens the real pages in"
            f" one; install it as Debian does: {INSTALL}"
        )


class Chromium:
    """A browser with one page; ended by the end of the block."""

    def __init__(self, folder: Path, *, width: int = 1440, height: int = 900) -> None:
        """`folder` receives its profile and whatever it keeps.

        Raises:
            ChromiumMissing: none is installed.
        """
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            raise ChromiumMissing
        to_browser, self._commands = os.pipe()
        self._answers, from_browser = os.pipe()
        self._process = _started(program, folder, to_browser, from_browser, size=(width, height))
        os.close(to_browser)
        os.close(from_browser)
        self._unread = b""
        self._number = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def open(self, url: str) -> None:
        """Go to an address; a page that is there already is left, so that nothing of it is found."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)

    def text(self) -> str:
        """What a person reads on the page."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def wait_for(self, *wanted: str, timeout_s: float = 30.0) -> str:
        """Wait until the page says all of this; its text."""

        def says_all() -> str | None:
            text = self.text()
            return text if all(each in text for each in wanted) else None

        found = self.wait_until(says_all, f"the page says {wanted}", timeout_s=timeout_s)
        return str(found)

    def wait_until(self, found: Callable[[], Any], what: str, *, timeout_s: float = 30.0) -> Any:
        """What `found` returns, once that is something."""
        deadline = time.monotonic() + timeout_s
        while not (answer := found()):
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}. The page: {self.text()}"
            time.sleep(0.1)
        return answer

    def click(self, text: str) -> None:
        """Click on the innermost element that says just this."""
        script = (
            "(() => { const found = [...document.querySelectorAll('*')].filter(e => e.childElementCount === 0"
            f" && e.textContent.trim() === {json.dumps(text)} && e.getClientRects().length);"
            " if (found.length) found[0].click(); return found.length; })()"
        )
        self.wait_until(lambda: self.run(script), f"there is {text!r} to click on")

    def run(self, script: str) -> Any:
        """The value of a script on the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def draw(self, file: Path) -> None:
        """A picture of the page as PNG or WebP, by the file's ending."""
        webp = {"format": "webp", "quality": 60} if file.suffix == ".webp" else {"format": "png"}
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **webp)["data"]))

    def call(self, method: str, **parameters: Any) -> Mapping[str, Any]:
        """Send one command of the protocol; its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (message := self._next()).get("id") != self._number:
            pass  # events
        assert "error" not in message, f"{method}: {message['error']}"
        result: Mapping[str, Any] = message["result"]
        return result

    def _next(self) -> Mapping[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], _STARTS_WITHIN_S)
            assert ready, f"Chromium gave no answer within {_STARTS_WITHIN_S} s"
            received = os.read(self._answers, _CHUNK_BYTES)
            assert received, f"Chromium ended with exit code {self._process.wait()}"
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\0")
        message: Mapping[str, Any] = json.loads(line)
        return message


def _started(
    program: str, folder: Path, to_browser: int, from_browser: int, *, size: tuple[int, int]
) -> "subprocess.Popen[bytes]":
    """The browser, which reads commands from its descriptor 3 and answers on 4."""

    def place_pipes() -> None:
        # Out of the way first: either may be the other's place.
        reader, writer = os.dup(to_browser), os.dup(from_browser)
        os.dup2(reader, 3)
        os.dup2(writer, 4)

    return subprocess.Popen(
        [
            program,
            *("--headless", "--disable-gpu", "--no-first-run", "--no-default-browser-check"),
            *("--remote-debugging-pipe", f"--user-data-dir={folder}"),
            f"--window-size={size[0]},{size[1]}",
            # As root, in a container too; only our own server's pages are opened.
            *("--no-sandbox", "--disable-dev-shm-usage"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"},
        close_fds=False,
        preexec_fn=place_pipes,
        start_new_session=True,
    )
