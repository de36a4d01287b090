"""A registered composition or adapter as a folder, for other programs to load."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from registry.entities import AdapterVersion, CompositionVersion
from registry.service import Registry
from workers.errors import SpecInvalid
from workers.jobs.adapter_export import write_stored_adapter
from workers.processes.heavy_imports import heavy_imports
from workers.requests.exports import ADAPTER_EXPORTS, DEFAULT_OF_COMPOSITIONS, require_adapter_export
from workers.requests.methods import method_row, require_export
from workers.requests.subjects import find
from xlora_engine.sources.hub import looks_like_repository
from xlora_engine.sources.new_folder import filling

#: The zoo's own format is what the registry holds, so it is copied; the others are written.
OWN_FORMAT = "zoo"

#: Formats of compositions beside which the base model can be written, as their program reads it.
WITH_BASE = ("mistralrs",)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written where."""

    #: `composition` or `adapter`.
    kind: str
    #: `science@1`.
    reference: str
    format: str
    folder: Path
    #: The base model's name on the hub as the files give it; None if they give none.
    base_id: str | None
    #: Whether the files are to name a base model.
    names_a_base: bool
    #: Whether a configuration holds the folder's own path, so that it cannot be loaded from another.
    holds_its_path: bool
    #: What else is to be known of it, e.g. what rounding changed.
    known: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def export(
    registry: Registry,
    reference: str,
    folder: Path,
    *,
    layout: str | None = None,
    base_id: str | None = None,
    with_base: bool = False,
    dtype: str | None = None,
) -> Exported:
    """Write a composition or an adapter to a folder that is new or empty, with its base model on request.

    Where `base_id` is left out, it is where the base model was registered from, if that is a name on the hub.

    Raises:
        NotFound: there is no such composition or adapter.
        SpecInvalid: it is not exported so, the format holds no base model, or it is a base model itself.
        SavedModelUnwritable: the folder cannot be written.
        NotRepresentable: the format cannot express it.
    """
    record = find(registry, reference)
    if isinstance(record, CompositionVersion) and not _is_adapter(record, layout):
        return _composition(
            registry, record, folder, layout or DEFAULT_OF_COMPOSITIONS, base_id, with_base, dtype
        )
    if not isinstance(record, AdapterVersion | CompositionVersion):
        allowed = "an adapter or a composition: a base model is exported as it was registered, a folder"
        raise SpecInvalid("subject", allowed=allowed, value=reference)
    layout = layout or next(iter(ADAPTER_EXPORTS))
    require_adapter_export(layout, with_base=with_base, dtype=dtype)
    base_id = base_id or _hub_name(registry, record.base_digest)
    known = write_stored_adapter(registry, record, folder, layout, base_id=base_id, dtype=dtype)
    return Exported(
        kind="adapter" if isinstance(record, AdapterVersion) else "composition",
        reference=record.reference,
        format=layout,
        folder=folder.resolve(),
        base_id=base_id,
        names_a_base=not ADAPTER_EXPORTS[layout].with_weights,
        holds_its_path=False,
        known=known,
    )


def _is_adapter(record: CompositionVersion, layout: str | None) -> bool:
    """Whether it is one ordinary adapter, and is to be written in a format of adapters."""
    return method_row(record.method).is_adapter and layout not in (None, OWN_FORMAT)


def _composition(
    registry: Registry,
    record: CompositionVersion,
    folder: Path,
    layout: str,
    base_id: str | None,
    with_base: bool,
    dtype: str | None,
) -> Exported:
    require_export(record.method, layout)
    if with_base and layout not in WITH_BASE:
        raise SpecInvalid("with_base", f"left out with the format {layout}, which holds no base model", True)
    if dtype is not None:
        raise SpecInvalid("dtype", "left out for a composition, which is written as it is stored", dtype)
    source = registry.materialise(record)
    if layout == OWN_FORMAT:
        base_id = None
        _copy(source, folder)
    else:
        base_id = base_id or _hub_name(registry, record.base_digest)
        base = registry.bases.get(record.base_digest)
        base_folder = registry.materialise(base) if with_base else None
        _convert(record.method, source, folder, layout, base_id=base_id, base_folder=base_folder)
    written = folder.resolve()
    return Exported(
        kind="composition",
        reference=record.reference,
        format=layout,
        folder=written,
        base_id=base_id,
        names_a_base=layout != OWN_FORMAT and not with_base,
        holds_its_path=_holds_its_path(written),
    )


def _hub_name(registry: Registry, base_digest: str) -> str | None:
    source = registry.bases.get(base_digest).source
    return source if looks_like_repository(source) else None


def _convert(
    method: str, source: Path, folder: Path, layout: str, *, base_id: str | None, base_folder: Path | None
) -> None:
    # The own format is copied without torch, which takes seconds to import.
    with heavy_imports():
        from workers.methods.mixing import xlora_method
        from xlora_engine.saved.formats import write_model

    saved = replace(xlora_method(method).read(source), base_id=base_id, base_folder=base_folder)
    write_model(saved, folder, layout)


def _copy(source: Path, folder: Path) -> None:
    with filling(folder) as staging:
        for path in sorted(source.rglob("*")):
            copied = staging / path.relative_to(source)
            if path.is_dir():
                copied.mkdir()
            else:
                shutil.copyfile(path, copied)


def _holds_its_path(folder: Path) -> bool:
    written = json.dumps(str(folder))[:-1]
    return any(written in path.read_text(encoding="utf-8") for path in folder.glob("*.json"))
