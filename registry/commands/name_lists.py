"""Options that hold more than a word: names separated by commas, a dataset with its weight."""

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


def weighted_reference(text: str) -> tuple[str, float]:
    """A dataset and its weight, 1 where none is given: `bio.train=0.5`.

    Raises:
        BadParameter: what follows the last sign is no number.
    """
    reference, sign, weight = text.rpartition("=")
    if not sign:
        return text, 1.0
    try:
        return reference, float(weight)
    except ValueError as error:
        allowed = f"expected a dataset or DATASET=WEIGHT, such as bio.train=0.5, got {text!r}"
        raise click.BadParameter(allowed, param_hint="--further-data") from error
