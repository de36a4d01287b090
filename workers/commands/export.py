"""`zoo export`: a composition or an adapter as a folder, for other programs to load."""

from pathlib import Path
from typing import Any

import click

from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from workers.jobs.export import Exported, export
from workers.requests.exports import DTYPES, EXPORT_FORMATS


@click.command()
@click.argument("subject")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--format",
    type=click.Choice(EXPORT_FORMATS),
    help="Of a composition: zoo (this engine, the default), xlora (the original package), peft, or mistralrs"
    " (with its ordering file). Of an adapter: peft (the default), vllm, or merged (into its base model).",
)
@click.option("--base-id", help="The base model's name on the hub; where it was registered from if left out.")
@click.option(
    "--with-base", is_flag=True, help="Write the base model too, as mistral.rs reads it (mistralrs alone)."
)
@click.option(
    "--dtype", type=click.Choice(DTYPES), help="Of merged weights; the base model's own if left out."
)
@output_options
def command(subject: str, folder: Path, format: str | None, output: Output, **how: Any) -> None:
    """Write SUBJECT, a composition or an adapter, to FOLDER, which must be new or empty.

    What a format cannot say is refused.

    Example: zoo export science ./science --format peft
    """
    with opened() as registry:
        exported = export(registry, subject, folder, layout=format, **how)
    if exported.names_a_base and exported.base_id is None:
        output.hint(
            "note: it names no base model, for the zoo knows none of the hub;"
            " for one, export again with --base-id OWNER/NAME"
        )
    output.emit_made(
        str(folder),
        {
            exported.kind: exported.reference,
            "format": exported.format,
            "folder": str(exported.folder),
            **exported.known,
        },
    )
    _explain(exported, output)


def _explain(exported: Exported, output: Output) -> None:
    if exported.holds_its_path:
        output.hint(f"note: its files give the experts' path in {exported.folder}; to move it, export again")
    if "rounding" in exported.known:
        share, dtype = exported.known["rounding"], exported.known["dtype"]
        output.hint(
            f"note: rounding the sums to {dtype} changes what the adapter adds by {share:.2%} of it"
            + ("" if dtype == "float32" else "; --dtype float32 rounds least")
        )
    if "max_lora_rank" in exported.known:
        limit = exported.known["max_lora_rank"]
        output.hint(
            f"serve it with: vllm serve BASE --enable-lora --max-lora-rank {limit}"
            f" --lora-modules NAME={exported.folder}"
        )
