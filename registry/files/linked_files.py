"""A foreign folder's entries, with links followed where they stay inside it, as those of a hub's cache do.

Links are resolved once, here; what is opened later is the file they lead to, which must be no link itself.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from formats.errors import Refusal
from registry.files.regular_files import kind_of

#: A repository in the hub's cache: `snapshots/<revision>/<file>` is a link to `blobs/<digest>`.
SNAPSHOTS, BLOBS, REFS = "snapshots", "blobs", "refs"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a folder holds, by name, sorted."""

    #: Regular files: name -> path to open, which is elsewhere for a link.
    files: Mapping[str, Path]
    folders: Mapping[str, Path]
    #: Name -> what it is, for what is neither or lies outside.
    unusable: Mapping[str, str]


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
