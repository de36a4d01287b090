"""`zoo export`: a composition as a folder, for other programs to load."""

from pathlib import Path

import click

from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from workers.jobs.export import OWN_FORMAT, export_composition
from workers.requests.methods import EXPORT_FORMATS


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
@click.option(
    "--with-base", is_flag=True, help="Write the base model too, as mistral.rs reads it (mistralrs alone)."
)
@output_options
def command(
    composition: str, folder: Path, format: str, base_id: str | None, with_base: bool, output: Output
) -> None:
    """Write COMPOSITION to FOLDER, which must be new or empty; what a format cannot say is refused.

    Example: zoo export science ./science --format peft
    """
    with opened() as registry:
        exported = export_composition(
            registry, composition, folder, layout=format, base_id=base_id, with_base=with_base
        )
    if format != OWN_FORMAT and not with_base and exported.base_id is None:
        output.hint(
            "note: it names no base model, for the zoo knows none of the hub;"
            " for one, export again with --base-id OWNER/NAME"
        )
    output.emit_made(
        str(folder),
        {"composition": exported.composition, "format": format, "folder": str(exported.folder)},
    )
    if exported.holds_its_path:
        output.hint(f"note: its files give the experts' path in {exported.folder}; to move it, export again")
