"""A foreign folder's entries, with links followed where they stay inside it, as those of a hub's cache do.

Links are resolved once, here; what is opened later is the file they lead to, which must be no link itself.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from formats.errors import Refusal
from registry.files.regular_files import kind_of, read_bounded

#: A repository in the hub's cache: `snapshots/<revision>/<file>` is a link to `blobs/<digest>`.
SNAPSHOTS, BLOBS, REFS = "snapshots", "blobs", "refs"
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: A folder of the hub's cache: models--<owner>--<name>.
_CACHED = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a folder holds, by name, sorted."""

    #: Regular files: name -> path to open, which is elsewhere for a link.
    files: Mapping[str, Path]
    folders: Mapping[str, Path]
    #: Name -> what it is, for what is neither or lies outside.
    unusable: Mapping[str, str]


def snapshot_of(given: Path, *, refusal: Refusal) -> Path:
    """The revision in a repository's folder of the hub's cache, of several main; other folders as they are.

    Raises:
        refusal: there are several, and none is main.
    """
    snapshots = given / SNAPSHOTS
    if not (snapshots.is_dir() and (given / BLOBS).is_dir()):
        return given
    main = given / REFS / "main"
    if main.is_file():
        revision = read_bounded(main, limit_bytes=100, refusal=refusal).decode(errors="replace").strip()
        if _COMMIT.fullmatch(revision) and (snapshots / revision).is_dir():
            return snapshots / revision
    revisions = sorted(str(path) for path in snapshots.iterdir() if path.is_dir())
    if len(revisions) != 1:
        raise refusal(
            f"{given} holds {len(revisions)} revisions of a repository; give one of them:"
            f" {', '.join(revisions)}"
        )
    return Path(revisions[0])


def hub_origin(snapshot: Path) -> str | None:
    """`hub:<repository>@<revision>` of a revision in the hub's cache; None of any other folder."""
    resolved = snapshot.resolve()
    cached = _CACHED.fullmatch(resolved.parent.parent.name)
    if cached is None or resolved.parent.name != SNAPSHOTS or not _COMMIT.fullmatch(resolved.name):
        return None
    return f"hub:{cached['owner']}/{cached['name']}@{resolved.name}"


def followed(folder: Path, name: str) -> Path:
    """A file of a folder, or what its link leads to; a link that leads out comes back, and none opens it."""
    path = folder / name
    if not path.is_symlink():
        return path
    target = path.resolve()
    return target if target.is_relative_to(boundary_of(folder)) else path


def boundary_of(folder: Path) -> Path:
    """The folder that links may not leave: the repository's of a hub's cache, otherwise `folder` itself."""
    resolved = folder.resolve()
    for parent in resolved.parents:
        if parent.name == SNAPSHOTS and (parent.parent / BLOBS).is_dir():
            return parent.parent
    return resolved


def list_folder(folder: Path, *, within: Path, refusal: Refusal) -> Listing:
    """The entries of `folder`; a link is followed to what lies below `within`, which has no links itself.

    Raises:
        refusal: `folder` is no folder, or cannot be read.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except NotADirectoryError as exc:
        raise refusal(f"{folder} is not a folder") from exc
    except OSError as exc:
        raise refusal(f"cannot read {folder}: {os.strerror(exc.errno or 0)}") from exc
    files: dict[str, Path] = {}
    folders: dict[str, Path] = {}
    unusable: dict[str, str] = {}
    for name in names:
        path = folder / name
        try:
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                path = path.resolve(strict=True)
                mode = path.lstat().st_mode
                if not path.is_relative_to(within):
                    unusable[name] = f"a symbolic link to {path}, outside of {within}"
                    continue
        except (OSError, RuntimeError):
            unusable[name] = "a symbolic link to nothing"
            continue
        kind = kind_of(mode)
        if kind is None:
            files[name] = path
        elif stat.S_ISDIR(mode):
            folders[name] = path
        else:
            unusable[name] = kind
    return Listing(files=files, folders=folders, unusable=unusable)
