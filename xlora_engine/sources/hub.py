"""Where a saved model's files are: a folder of this machine, or a repository on the Hugging Face hub."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from formats.saved_model import EXPERT_FILES, TOP_FILES
from xlora_engine.errors import ConfigInvalid, HubNotFound, HubUnavailable

#: `owner/name`, as the hub allows them.
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

#: Every file of every format of a saved model: repositories may also hold pickles, or a whole base model.
FILES = (
    *TOP_FILES,
    "xlora_config.json",
    "xlora_classifier.safetensors",
    "*ordering*.json",
    *EXPERT_FILES,
)


def looks_like_repository(path: str | Path) -> bool:
    """Whether a name could be that of a repository on the hub."""
    return _REPOSITORY.fullmatch(str(path)) is not None


def local_folder(path: str | Path, *, subfolder: str | None = None, revision: str | None = None) -> Path:
    """The folder itself if there is one of this name, else the hub repository's, fetched into its cache.

    Only `FILES` of a repository are fetched, below `subfolder` if given. `HF_ENDPOINT`, `HF_HUB_OFFLINE`
    and the other settings of `huggingface_hub` apply.

    Raises:
        ConfigInvalid: `subfolder` leads out of the folder.
        HubNotFound: there is no such repository, revision or subfolder.
        HubUnavailable: the hub cannot be reached, and its cache holds no copy.
    """
    below = PurePosixPath(subfolder or ".")
    if below.is_absolute() or ".." in below.parts:
        raise ConfigInvalid("subfolder", "a folder below the model's own", subfolder)
    folder = Path(path)
    if not folder.is_dir() and looks_like_repository(path):
        folder = _fetch(str(path), below, revision)
        if not (folder / below).is_dir():
            raise HubNotFound(f"{path} at {revision or 'its main revision'} has no folder {subfolder!r}")
    return folder / below


def _fetch(repository: str, below: PurePosixPath, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # httpx's HTTPError, or httpx2's
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    prefix = "" if below == PurePosixPath() else f"{below}/"
    options: dict[str, Any] = {"revision": revision, "library_name": "adapter-zoo"}
    patterns = [f"{prefix}{deeper}{name}" for name in FILES for deeper in ("", "*/")]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns, **options))
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, HFValidationError) as error:
        raise HubNotFound(
            f"there is no folder {repository!r} here, and the hub shows none at revision "
            f"{revision or 'main'}: {_first_line(error)}; check the name, or log in with `hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, HTTPError, OSError) as error:
        raise HubUnavailable(
            f"there is no folder {repository!r} here, and the hub gave none: {_first_line(error)}; "
            "check the connection, HF_ENDPOINT and HF_HUB_OFFLINE"
        ) from error


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
