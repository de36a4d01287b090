"""`--sbom` of `show`: the bill of materials of an adapter or a composition, instead of its record."""

from typing import TYPE_CHECKING

import click

from registry.commands.output import Output

if TYPE_CHECKING:  # importing it takes longer than `ls` may take
    from registry.entities import AdapterVersion, CompositionVersion
    from registry.service import Registry

sbom_option = click.option(
    "--sbom",
    is_flag=True,
    help="Print its bill of materials (CycloneDX JSON): files, digests, licences of all it is made from.",
)


def print_bill(registry: "Registry", record: "AdapterVersion | CompositionVersion", output: Output) -> None:
    """The bill on standard output, and for people the licences, the strictest first, beside it."""
    from registry.bills.cyclonedx import as_cyclonedx, licence_lines
    from registry.bills.materials import materials_of

    materials = materials_of(registry, record)
    click.echo(as_cyclonedx(materials))
    for line in licence_lines(materials):
        output.hint(line)
