"""A registered composition as a folder, for other programs to load."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from registry.service import Registry
from workers.errors import SpecInvalid
from workers.processes.heavy_imports import heavy_imports
from workers.requests.methods import require_export
from xlora_engine.sources.hub import looks_like_repository
from xlora_engine.sources.new_folder import filling

#: The zoo's own format is what the registry holds, so it is copied; the others are written.
OWN_FORMAT = "zoo"

#: Formats beside which the base model can be written, as their program reads it.
WITH_BASE = ("mistralrs",)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written where."""

    #: `science@1`.
    composition: str
    format: str
    folder: Path
    #: The base model's name on the hub as the files give it; None if they give none.
    base_id: str | None
    #: Whether a configuration holds the folder's own path, so that it cannot be loaded from another.
    holds_its_path: bool


def export_composition(
    registry: Registry,
    reference: str,
    folder: Path,
    *,
    layout: str = OWN_FORMAT,
    base_id: str | None = None,
    with_base: bool = False,
) -> Exported:
    """Write a composition to a folder that is new or empty, with its base model on request.

    Where `base_id` is left out, it is where the base model was registered from, if that is a name on the hub.

    Raises:
        CompositionNotFound: there is no such composition.
        SpecInvalid: no composition of its method is exported so, or the format holds no base model.
        SavedModelUnwritable: the format cannot express it, or the folder cannot be written.
    """
    record = registry.compositions.get(reference)
    require_export(record.method, layout)
    if with_base and layout not in WITH_BASE:
        raise SpecInvalid("with_base", f"left out with the format {layout}, which holds no base model", True)
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
        composition=record.reference,
        format=layout,
        folder=written,
        base_id=base_id,
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
        from workers.methods.mixing import mixing_method
        from xlora_engine.saved.formats import write_model

    saved = replace(mixing_method(method).read(source), base_id=base_id, base_folder=base_folder)
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
