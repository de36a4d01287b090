"""Where a job comes from: the command as typed, by whom, and the commit of that folder's git repository."""

import getpass
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_REFERENCE = "ref: "
#: Of SHA-1 and SHA-256 in hexadecimal.
_SHA_LENGTHS = (40, 64)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What asked for a job; a field is None where it is not known."""

    #: `zoo train --name bio …`; None for a job that no command asked for.
    command: str | None = None
    user: str | None = None
    #: Of the git repository that holds the folder; None where there is none.
    commit: str | None = None

    @classmethod
    def here(cls, command: str | None) -> "Source":
        """This user, in this folder."""
        return cls(command=command, user=_user(), commit=commit_of(Path.cwd()))

    @classmethod
    def from_json(cls, noted: Mapping[str, Any]) -> "Source":
        """What `to_json` gave; other fields are passed over."""
        return cls(**{name: noted.get(name) for name in ("command", "user", "commit")})

    def to_json(self) -> dict[str, str]:
        """What is known, as JSON types."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def tags(self) -> dict[str, str]:
        """As MLflow's pages show it beside a run."""
        named = {
            "mlflow.source.name": self.command,
            "mlflow.source.type": self.command and "LOCAL",
            "mlflow.user": self.user,
            "mlflow.source.git.commit": self.commit,
        }
        return {name: value for name, value in named.items() if value}


def commit_of(folder: Path) -> str | None:
    """The commit that a folder's git repository is at, read from its files; None where there is none."""
    for parent in (folder, *folder.parents):
        try:
            found = _commit_in(parent / ".git")
        except (OSError, UnicodeDecodeError):
            continue  # no repository here, or one that cannot be read
        return found if len(found) in _SHA_LENGTHS else None
    return None


def _commit_in(place: Path) -> str:
    """The commit named by `HEAD`; a work tree has its own, and shares branches with the others."""
    if place.is_file():
        place = place.parent / place.read_text(encoding="utf-8").strip().removeprefix("gitdir: ")
    head = (place / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith(_REFERENCE):
        return head
    branch = head.removeprefix(_REFERENCE)
    common = place / "commondir"
    shared = place / common.read_text(encoding="utf-8").strip() if common.exists() else place
    for file in (place / branch, shared / branch):
        if file.is_file():
            return file.read_text(encoding="utf-8").strip()
    packed = (shared / "packed-refs").read_text(encoding="utf-8").splitlines()
    return next((line.split()[0] for line in packed if line.endswith(f" {branch}")), "")


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in some containers
        return None
