"""`zoo convert`: write an adapter of another program, or a pickle, as PEFT's two files."""

from pathlib import Path

import click

from formats.base_modules import adaptable_modules
from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from workers.conversion.adapters import convert_adapter

_GIVEN = click.Path(exists=True, path_type=Path)


@click.command(name="convert")
@click.argument("folder", type=_GIVEN)
@click.argument("new_folder", type=click.Path(path_type=Path))
@click.option("--subfolder", help="Where the adapter lies below FOLDER.")
@click.option("--checkpoint", help="Training checkpoint to take: best, last, or its number of steps.")
@click.option("--base", help="Registered base model, for kohya's files, which have no dots in module names.")
@output_options
def command(
    folder: Path,
    new_folder: Path,
    subfolder: str | None,
    checkpoint: str | None,
    base: str | None,
    output: Output,
) -> None:
    """Write the adapter in FOLDER to NEW_FOLDER as PEFT's two files; a pickle is read without network.

    Example: zoo convert ./old-lora ./old-lora-safetensors
    """
    if base is None:
        converted = convert_adapter(folder, new_folder, subfolder=subfolder, checkpoint=checkpoint)
    else:
        with opened() as registry:
            record = registry.bases.get(base)
        paths = adaptable_modules(record.modules, record.architecture)
        converted = convert_adapter(
            folder, new_folder, subfolder=subfolder, checkpoint=checkpoint, module_paths=lambda: [paths]
        )
    manifest = converted.manifest
    output.notes(manifest.warnings)
    if converted.isolated:
        output.hint(f"the pickle was read in a process with {' and '.join(converted.isolated)}")
    output.emit_made(
        str(new_folder),
        {
            "folder": str(new_folder),
            "rank": manifest.config.rank,
            "alpha": manifest.config.alpha,
            "modules": len(manifest.modules),
            "dtype": manifest.dtype,
            "size_bytes": manifest.size_bytes,
            "weights_digest": manifest.weights_digest,
            "isolated_by": list(converted.isolated),
        },
    )
