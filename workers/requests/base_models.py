"""A base model from a folder of transformers or a GGUF file, which is converted, to the registry."""

import tempfile
from functools import partial
from pathlib import Path

from registry.entities import BaseModel
from registry.service import Registry


def is_converted(path: Path) -> bool:
    """Whether the base model at a path is converted before it is registered, which takes half a minute."""
    return path.suffix == ".gguf"


def register_base(
    registry: Registry,
    path: Path,
    *,
    name: str,
    source: str | None = None,
    revision: str | None = None,
    licence: str | None = None,
) -> BaseModel:
    """Register the base model at a path; its source is the path's last name if left out.

    Raises:
        InvalidBase: there is no base model that can be loaded safely.
        NameTaken: the name means another base model, or this one has another name.
    """
    register = partial(
        registry.bases.register, name=name, source=source or path.name, revision=revision, licence=licence
    )
    if not is_converted(path):
        return register(path)
    # torch and transformers take seconds to import, and only a conversion needs them.
    from transformers.utils import logging as transformers_logging

    from xlora_engine.sources.base_model import convert_gguf

    transformers_logging.disable_progress_bar()  # they count tensors; the vocabulary takes the time
    with tempfile.TemporaryDirectory(dir=registry.settings.home, prefix=".convert-") as scratch:
        folder = Path(scratch) / "base"
        convert_gguf(path, folder)
        return register(folder)
