"""A hub on this machine: the endpoints of huggingface.co that `snapshot_download` asks, over folders."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

#: Repository -> revision -> folder.
Repositories = Mapping[str, Mapping[str, Path]]


def commit_of(folder: Path) -> str:
    """Forty hexadecimal digits, as a commit has."""
    return hashlib.sha1(str(folder).encode(), usedforsecurity=False).hexdigest()


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories, and keeps the names of the files that were fetched."""

    def __init__(self, repositories: Repositories) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def folder(self, repository: str, revision: str) -> Path | None:
        """By a revision's name or its commit."""
        revisions = self.repositories[repository]
        by_commit = {commit_of(folder): folder for folder in revisions.values()}
        return revisions.get(revision, by_commit.get(revision))


@contextmanager
def hub_of(repositories: Repositories) -> Iterator[Hub]:
    """A hub that answers while inside."""
    with Hub(repositories) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        owner, name, verb, revision, *rest = parts[2:] if is_api else parts
        repository = f"{owner}/{name}"
        if repository not in self.server.repositories:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        folder = self.server.folder(repository, revision)
        if folder is None:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if is_api:
            answers = {"revision": self._revision, "tree": self._tree}
            return self._send(200, json.dumps(answers[verb](repository, folder)).encode(), {})
        return self._file(folder, "/".join(rest))

    def _revision(self, repository: str, folder: Path) -> object:
        return {"id": repository, "modelId": repository, "sha": commit_of(folder), "siblings": []}

    def _tree(self, repository: str, folder: Path) -> object:
        return [
            {
                "type": "file",
                "path": str(path.relative_to(folder)),
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest(),
            }
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]

    def _file(self, folder: Path, name: str) -> None:
        if not (folder / name).is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = (folder / name).read_bytes()
        if self.command == "GET":
            self.server.fetched.append(name)
        etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit_of(folder)})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
