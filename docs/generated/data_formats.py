"""Tables of the training data that is read: kinds of files, ways to write an example, and what is refused."""

from docs.generated.markdown import table
from registry.containers.container_formats import CONTAINERS
from registry.containers.foreign_files import FOREIGN_FILES
from registry.containers.sources import COMPRESSIONS
from registry.example_shapes.example_shapes import SHAPES
from registry.example_shapes.refused_examples import REFUSED_EXAMPLES


def container_table() -> str:
    """Every kind of file that examples come in."""
    rows = [
        (f"`{row.name}`", row.what, ", ".join(f"`{ending}`" for ending in row.endings)) for row in CONTAINERS
    ]
    packed = [(f"`{row.name}`", "compressed", f"`{row.ending}`") for row in COMPRESSIONS]
    return table(("Kind", "What it is", "Names end in"), [*rows, *packed])


def shape_table() -> str:
    """Every way to write an example down, in the order in which they are looked for."""
    return table(
        ("Name", "What it is", "Recognised by"), [(f"`{row.name}`", row.what, row.keys) for row in SHAPES]
    )


def refused_data_table() -> str:
    """Everything that is refused by what it is."""
    return table(
        ("What it is", "What to do"),
        [
            (
                row.what,
                row.remedy.replace("{register}", "zoo register dataset {file}").replace("{file}", "FILE"),
            )
            for row in REFUSED_EXAMPLES
        ]
        + [(row.what, row.remedy.replace("{name}", "FILE")) for row in FOREIGN_FILES],
    )
