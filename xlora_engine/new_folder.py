"""A folder that appears whole or not at all, and never in the place of another."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xlora_engine.errors import CheckpointInvalid


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which takes the place of `folder` at the end, or vanishes on an error.

    Raises:
        CheckpointInvalid: `folder` holds something already.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointInvalid(f"{folder} holds something already; export to a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    staging.mkdir()
    try:
        yield staging
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
