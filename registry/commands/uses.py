"""`zoo adapters uses`, and the same of every kind of record: what refers to it, and what has to go first."""

from dataclasses import asdict

import click

from registry.commands.managing import reading
from registry.commands.output import Output, output_options
from registry.records.uses import uses_of

_COLUMNS = ("kind", "reference", "how", "state", "needs")


def add_uses(group: click.Group, kind: str) -> None:
    """Add `uses` to the group of a kind of record."""

    @group.command()
    @click.argument("reference")
    @output_options
    def uses(reference: str, output: Output) -> None:
        """List everything that refers to REFERENCE, first what keeps it from being removed."""
        with reading() as reader:
            found = uses_of(reader, kind, reference)
        output.emit(
            [asdict(use) for use in found],
            key="reference",
            columns=_COLUMNS,
            empty=f"nothing refers to {reference}",
        )
        needing = [{"command": use.remedy} for use in found if use.needs]
        output.section("to remove it, first", needing)
