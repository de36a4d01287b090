"""A composition folder, looked at without trusting it: which files it must hold, and which none other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.errors import InvalidComposition
from registry.files.digests import weights_digest
from registry.files.regular_files import names_in

MANIFEST_FILE = "xlora.json"
HEAD_FILE = "head.safetensors"
PROBE_FILE = "probe.safetensors"
EXPERTS_FOLDER = "experts"

_TOP_FILES = (HEAD_FILE, PROBE_FILE, MANIFEST_FILE)
_EXPERT_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, kw_only=True)
class CompositionManifest:
    """What a composition folder holds, derived from its files."""

    head_digest: str
    #: Paths of the files to keep, relative to the folder.
    files: tuple[str, ...]


def read_composition(folder: Path, *, experts: Sequence[str]) -> CompositionManifest:
    """Look at a saved composition of the experts of these names.

    Raises:
        InvalidComposition: a file is missing, is one too many, or is no plain file.
        WeightsInvalid: the scaling head's file is damaged.
    """
    _check_entries(folder, dict.fromkeys(_TOP_FILES, False) | {EXPERTS_FOLDER: True})
    _check_entries(folder / EXPERTS_FOLDER, dict.fromkeys(experts, True))
    for name in experts:
        _check_entries(folder / EXPERTS_FOLDER / name, dict.fromkeys(_EXPERT_FILES, False))
    copies = [f"{EXPERTS_FOLDER}/{name}/{file}" for name in experts for file in _EXPERT_FILES]
    return CompositionManifest(
        head_digest=weights_digest(folder / HEAD_FILE),
        files=(*_TOP_FILES, *copies),
    )


def _check_entries(folder: Path, expected: dict[str, bool]) -> None:
    """Refuse a folder whose entries (name -> whether a folder) are not just these."""
    found = names_in(folder, refusal=InvalidComposition)
    if found == expected:
        return
    missing = sorted(expected.keys() - found.keys())
    foreign = sorted(found.keys() - expected.keys())
    raise InvalidComposition(
        f"{folder} is not part of a saved composition: missing {missing or 'nothing'}, unknown"
        f" {foreign or 'nothing'}; save it again with XLoraModel.save_pretrained"
    )
