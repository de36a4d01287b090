"""An option with several names, separated by commas."""

import click


def split_list(text: str, *, option: str) -> tuple[str, ...]:
    """The names, without the blanks around them: `bio, protein` is `bio,protein`.

    Raises:
        BadParameter: one of them is empty.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise click.BadParameter(f"expected names with commas between them, got {text!r}", param_hint=option)
    return names
