"""An option that holds several names, by commas."""


def split_list(text: str) -> tuple[str, ...]:
    """The names, without the blanks around them: `bio, protein` is `bio,protein`."""
    return tuple(name.strip() for name in text.split(","))
