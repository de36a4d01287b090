"""`zoo register`: put a base model, an adapter or a dataset on record."""

from pathlib import Path
from typing import Any

import click

from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from registry.entities import AdapterVersion, DatasetVersion
from registry.registration.datasets import Reading
from registry.registration.every_adapter import NAMES, VERSIONS
from workers.commands.reading_options import reading_options
from workers.requests.adapters import register_adapter, register_every_adapter
from workers.requests.base_models import is_converted, register_base

_FILE = click.Path(exists=True, path_type=Path)


@click.group(name="register")
def command() -> None:
    """Put a base model, an adapter or a dataset on record; its files are copied and digested."""


@command.command()
@click.argument("path", type=_FILE)
@click.option("--name", required=True, help="What the base model is called here.")
@click.option("--source", help="Where it is from: a hub id, say; the path if left out.")
@click.option("--revision", help="Revision at the source.")
@click.option("--licence", help="Its licence.")
@click.option(
    "--chat-template",
    metavar="FILE|NAME",
    help="Chat template: a Jinja file, one of its own by name, or plain, chatml, llama3 or gemma; if left out"
    " its own default, or else plain.",
)
@output_options
def base(path: Path, output: Output, **facts: Any) -> None:
    """Register the base model at PATH: a folder of transformers, or a .gguf file, which is converted.

    Example: zoo register base ./SmolLM2-135M-Instruct.gguf --name smollm2
    """
    with opened() as registry:
        if is_converted(path):
            output.hint("converting to safetensors, once; this takes half a minute")
        record = register_base(registry, path, **facts)
        output.emit_made(record.reference, {"base": record.name, "digest": record.digest})
        output.notes(record.warnings)


@command.command()
@click.argument("folder", type=_FILE)
@click.option("--name", required=True, help="Name of the adapter; a taken name gets its next version.")
@click.option("--subfolder", help="Where the adapter lies below FOLDER.")
@click.option("--checkpoint", help="Training checkpoint to take: best, last, or its number of steps.")
@click.option(
    "--all-as",
    type=click.Choice([NAMES, VERSIONS]),
    help="Every adapter in and below FOLDER: as NAME-FOLDER each, or as versions of NAME.",
)
@click.option("--base", help="Base model, where the adapter's own configuration does not tell.")
@click.option("--domain", "domains", multiple=True, help="What the adapter is for.")
@click.option("--tag", "tags", multiple=True, help="A word to find it by.")
@click.option("--licence", help="Its licence.")
@click.option("--description", default="", help="What others should know.")
@output_options
def adapter(
    folder: Path,
    subfolder: str | None,
    checkpoint: str | None,
    all_as: str | None,
    output: Output,
    **facts: Any,
) -> None:
    """Register the LoRA adapter in FOLDER; base, rank, modules and size are read from its files.

    Example: zoo register adapter ./my-bio-lora --name bio --domain biology
    """
    if all_as and (subfolder or checkpoint):
        raise click.UsageError(
            "--all-as takes every adapter below FOLDER; leave out --subfolder and --checkpoint"
        )
    with opened() as registry:
        if all_as is None:
            record = register_adapter(registry, folder, subfolder=subfolder, checkpoint=checkpoint, **facts)
            output.notes(record.warnings)
            output.emit_made(record.reference, _facts(record))
            return
        records = register_every_adapter(registry, folder, all_as=all_as, **facts)
        for record in records:
            output.notes([f"{record.reference}: {warning}" for warning in record.warnings])
        output.emit([_facts(record) for record in records], key="adapter")


def _facts(record: AdapterVersion) -> dict[str, Any]:
    return {
        "adapter": record.reference,
        "base": record.base_name,
        "rank": record.rank,
        "alpha": record.alpha,
        "target_modules": list(record.target_modules),
        "modules": len(record.modules),
        "size_bytes": record.size_bytes,
        "weights_digest": record.weights_digest,
    }


@command.command()
@click.argument("file", type=_FILE)
@click.option("--name", help="Name of the dataset; `bio.train` for bio.train.jsonl if left out.")
@click.option("--domain", help="What it is about; from the file's name if left out.")
@click.option("--split", type=click.Choice(["train", "eval"]), help="From the file's name if left out.")
@click.option("--licence", help="Its licence.")
@click.option(
    "--hold-out",
    type=float,
    help="Make two datasets of it, NAME.train and NAME.eval, the second with this share of the examples.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides which examples are held out.")
@output_options
@reading_options
def dataset(
    file: Path,
    name: str | None,
    domain: str | None,
    split: str | None,
    licence: str | None,
    hold_out: float | None,
    seed: int,
    reading: Reading,
    output: Output,
) -> None:
    """Register the examples in FILE, or in the files of a folder, every one checked.

    JSONL, JSON, CSV, Parquet, Arrow and text, compressed or not: chat messages, ShareGPT, Alpaca, prompts and
    completions, plain text. What the file was taken for is said and kept.

    Example: zoo register dataset bio.train.jsonl
    """
    if hold_out is not None and split is not None:
        raise click.UsageError("--hold-out makes both splits; leave out --split")
    with opened() as registry:
        facts: dict[str, Any] = {"name": name, "domain": domain, "licence": licence, "reading": reading}
        records: tuple[DatasetVersion, ...] = (
            (registry.datasets.register(file, split=split, **facts),)
            if hold_out is None
            else registry.datasets.hold_out(file, share=hold_out, seed=seed, **facts)
        )
        for read in records[0].reading.get("files", ()):
            output.hint(f"{read['name']} was taken for {read['taken_for']}")
        rows = [
            {"dataset": record.reference, "examples": record.examples, "digest": record.digest}
            for record in records
        ]
        if hold_out is None:
            output.emit_made(records[0].reference, rows[0])
        else:
            output.emit(rows, key="dataset")
        output.notes([warning for record in records for warning in record.warnings])
