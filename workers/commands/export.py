"""`zoo export`: a composition as a folder, for other programs to load."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from workers.processes.heavy_imports import heavy_imports
from workers.requests.methods import EXPORT_FORMATS, require_export
from xlora_engine.sources.hub import looks_like_repository
from xlora_engine.sources.new_folder import filling

if TYPE_CHECKING:
    from registry.service import Registry

#: The zoo's own format is what the registry holds, so it is copied; the others are written.
OWN_FORMAT = "zoo"


@click.command()
@click.argument("composition")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--format",
    type=click.Choice(EXPORT_FORMATS),
    default=OWN_FORMAT,
    show_default=True,
    help="zoo (this engine), xlora (the original package), peft, or mistralrs (with its ordering file).",
)
@click.option("--base-id", help="The base model's name on the hub; where it was registered from if left out.")
@output_options
def command(composition: str, folder: Path, format: str, base_id: str | None, output: Output) -> None:
    """Write COMPOSITION to FOLDER, which must be new or empty; what a format cannot say is refused.

    Example: zoo export science ./science --format peft
    """
    with opened() as registry:
        record = registry.compositions.get(composition)
        require_export(record.method, format)
        source = registry.materialise(record)
        if format == OWN_FORMAT:
            _copy(source, folder)
        else:
            base_id = base_id or _source_of(registry, record.base_digest)
            _convert(record.method, source, folder, format, base_id)
            if base_id is None:
                output.hint(
                    "note: it names no base model, for the zoo knows none of the hub;"
                    " for one, export again with --base-id OWNER/NAME"
                )
    exported = {"composition": record.reference, "format": format, "folder": str(folder.resolve())}
    output.emit_made(str(folder), exported)
    if _names_its_place(folder.resolve()):
        output.hint(
            f"note: its files name the experts as lying in {folder.resolve()}; to move it, export again"
        )


def _names_its_place(folder: Path) -> bool:
    """Whether a configuration holds the folder's own path, so that it cannot be loaded from another."""
    place = json.dumps(str(folder))[:-1]
    return any(place in path.read_text(encoding="utf-8") for path in folder.glob("*.json"))


def _source_of(registry: "Registry", base_digest: str) -> str | None:
    source = registry.bases.get(base_digest).source
    return source if looks_like_repository(source) else None


def _convert(method: str, source: Path, folder: Path, layout: str, base_id: str | None) -> None:
    with heavy_imports():
        from workers.methods.mixing import mixing_method
        from xlora_engine.saved.formats import write_model

    write_model(replace(mixing_method(method).read(source), base_id=base_id), folder, layout)


def _copy(source: Path, folder: Path) -> None:
    with filling(folder) as staging:
        for path in sorted(source.rglob("*")):
            place = staging / path.relative_to(source)
            if path.is_dir():
                place.mkdir()
            else:
                shutil.copyfile(path, place)
