"""A composition folder, looked at without trusting it: which files it must hold, and which none other."""

from collections.abc import Sequence
from pathlib import Path

from formats.saved_model import EXPERT_FILES, EXPERTS_FOLDER
from registry.errors import InvalidComposition
from registry.files.regular_files import names_in


def composition_paths(folder: Path, *, own: Sequence[str], experts: Sequence[str]) -> tuple[str, ...]:
    """Paths, relative to the folder, of a composition's files: its method's `own`, then its experts'.

    Raises:
        InvalidComposition: a file is missing, is one too many, or is no plain file.
    """
    _check_entries(folder, dict.fromkeys(own, False) | {EXPERTS_FOLDER: True})
    _check_entries(folder / EXPERTS_FOLDER, dict.fromkeys(experts, True))
    for name in experts:
        _check_entries(folder / EXPERTS_FOLDER / name, dict.fromkeys(EXPERT_FILES, False))
    return (*own, *(f"{EXPERTS_FOLDER}/{name}/{file}" for name in experts for file in EXPERT_FILES))


def _check_entries(folder: Path, expected: dict[str, bool]) -> None:
    """Refuse a folder whose entries (name -> whether a folder) are not just these."""
    found = names_in(folder, refusal=InvalidComposition)
    if found == expected:
        return
    missing = sorted(expected.keys() - found.keys())
    foreign = sorted(found.keys() - expected.keys())
    raise InvalidComposition(
        f"{folder} is not part of a saved composition: missing {missing or 'nothing'}, unknown"
        f" {foreign or 'nothing'}; save it again"
    )
