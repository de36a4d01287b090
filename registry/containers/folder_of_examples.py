"""A folder of files of examples: which of them are taken, in which order, and which split they are of."""

import fnmatch
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from registry.containers.container_formats import ENDINGS, without_ending
from registry.errors import InvalidDataset
from registry.files.regular_files import names_in

#: How far below it files are looked for: hubs and `datasets` use one folder a configuration and split.
_DEEPEST = 3
_MOST_FILES = 10_000
#: JSON that says something about data and holds none.
_ABOUT_DATA = {
    *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json"),
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "package.json"),
    *("requirements.txt", "license.txt", "licence.txt", "readme.txt"),
}
_SPLIT = re.compile(r"(?<![a-z])(train|training|validation|valid|val|dev|test|eval)(?![a-z])")


def files_of_examples(folder: Path, *, only: str | None) -> Sequence[Path]:
    """Files of a folder that hold examples by their names, in order; of those, `only` what matches a pattern.

    Raises:
        InvalidDataset: there are none, or of several splits and no pattern says which, or there is a link.
    """
    found = [path for path in _below(folder, _DEEPEST) if _holds_examples(path)]
    relative = {path: path.relative_to(folder).as_posix() for path in found}
    if only is not None:
        taken = [path for path in found if _matches(relative[path], path.name, only)]
        if not taken:
            there = ", ".join(sorted(relative.values())[:5]) or "none"
            raise InvalidDataset(f"no file of {folder} matches {only!r}; there are: {there}")
        return taken
    if not found:
        raise InvalidDataset(f"{folder} holds no file of examples; names end in {', '.join(ENDINGS)}")
    splits = sorted({split for path in found if (split := _split_of(relative[path]))})
    if len(splits) > 1:
        raise InvalidDataset(
            f"{folder} holds the splits {', '.join(splits)}; take one by its files:"
            f" zoo register dataset {folder} --files '*{splits[-1]}*'"
        )
    if len(found) > _MOST_FILES:
        raise InvalidDataset(f"{folder} holds {len(found):,} files of examples, more than {_MOST_FILES:,}")
    return found


def _below(folder: Path, depth: int) -> Iterator[Path]:
    for name, is_folder in names_in(folder, refusal=InvalidDataset).items():
        if name.startswith("."):
            continue
        if not is_folder:
            yield folder / name
        elif depth:
            yield from _below(folder / name, depth - 1)


def _holds_examples(path: Path) -> bool:
    return without_ending(path.name) is not None and path.name.lower() not in _ABOUT_DATA


def _matches(relative: str, name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(relative, pattern) or fnmatch.fnmatchcase(name, pattern)


def _split_of(relative: str) -> str | None:
    found = _SPLIT.search(relative.lower())
    return found[1] if found else None
