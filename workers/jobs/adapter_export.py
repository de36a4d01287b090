"""A registered adapter as a folder, for other programs to load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.entities import AdapterVersion, BaseModel, CompositionVersion
from registry.service import Registry
from workers.errors import SpecInvalid
from workers.processes.heavy_imports import heavy_imports
from workers.requests.exports import DTYPES


def write_stored_adapter(
    registry: Registry,
    record: AdapterVersion | CompositionVersion,
    folder: Path,
    layout: str,
    *,
    base_id: str | None,
    dtype: str | None,
) -> Mapping[str, Any]:
    """Write an adapter, or a composition that is one, to a new folder; what is to be known of it.

    Raises:
        SpecInvalid: the base model's weights are quantised, so that nothing can be added to them.
        NotRepresentable: what would read it has no equivalent of a field, which is named.
        SavedModelInvalid: the folder is not empty, or cannot be written.
    """
    base = registry.bases.get(record.base_digest)
    chosen = dtype or stored_dtype(base)
    with heavy_imports():
        import torch
        from transformers.utils import logging as transformers_logging

        from xlora_engine.saved.adapter_formats import SavedAdapter, write_adapter
        from xlora_engine.sources.adapter_weights import read_expert

    transformers_logging.disable_progress_bar()  # a few seconds, in which a bar tells nothing
    saved = SavedAdapter(
        expert=read_expert(registry.materialise(record), record.name),
        architecture=base.architecture,
        base_id=base_id,
        base_folder=registry.materialise(base),
        dtype=getattr(torch, chosen),
    )
    return write_adapter(saved, folder, layout)


def stored_dtype(base: BaseModel) -> str:
    """What the weights of a base model are stored in; the widest, where there are several.

    Raises:
        SpecInvalid: none of them is a number that an adapter could be added to.
    """
    found = [name for name in DTYPES if name in base.dtype.split(",")]
    if not found:
        allowed = (
            f"given for {base.name}, whose weights are stored as {base.dtype}: one of {', '.join(DTYPES)}"
        )
        raise SpecInvalid("dtype", allowed=allowed, value=None)
    return found[0]
